"""The baseline of the gateway's benchmark: read the body, put it, insert one row, answer.

No keys, no checks of the photo, no history, no idempotency. Settings come as in ours.
"""

import os
import uuid

import boto3
import uvicorn
from botocore.config import Config
from fastapi import FastAPI, UploadFile
from sqlalchemy import create_engine, text

app = FastAPI()
database = create_engine(os.environ["BARE_DATABASE_URL"], pool_size=10)
bucket = boto3.client(
    "s3",
    endpoint_url=os.environ["BARE_S3_URL"],
    region_name="us-east-1",
    aws_access_key_id="bench",
    aws_secret_access_key="bench",
    config=Config(s3={"addressing_style": "path"}, max_pool_connections=32),
)


@app.post("/submit", status_code=202)
def submit(file: UploadFile) -> dict[str, str]:
    id_ = uuid.uuid4().hex
    data = file.file.read()
    bucket.put_object(Bucket="defectscope", Key=f"bare/{id_}", Body=data)
    with database.begin() as connection:
        connection.execute(
            text("INSERT INTO bare (id, key, bytes) VALUES (:id, :key, :bytes)"),
            {"id": id_, "key": f"bare/{id_}", "bytes": len(data)},
        )
    return {"id": id_}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["BARE_PORT"]), access_log=False, log_level="warning")
