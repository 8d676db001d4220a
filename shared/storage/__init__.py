"""Where the bytes live: originals, maps and model files, by key.

Two stores that keep the same promises: what `put` returned from is there after
a power cut, a reader never sees half an object, and a missing object is told
apart from a store that is away.
"""

import threading
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from shared.settings import Settings, get_settings
from shared.storage.folder import LocalStorage
from shared.storage.protocol import Storage
from shared.storage.s3 import S3Storage


def make_storage(settings: Settings) -> Storage:
    """The store that `storage_url` names. Raises ValueError for any other scheme."""
    url = urlsplit(settings.storage_url)
    if url.scheme == "file" and url.path:
        return LocalStorage(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc:
        return S3Storage(settings, url.netloc)
    raise ValueError(f"storage_url must be s3://BUCKET or file:///FOLDER, not {url.geturl()!r}")


_lock = threading.Lock()


@lru_cache(maxsize=1)
def _process_storage() -> Storage:
    return make_storage(get_settings())


def storage() -> Storage:
    """The store of this process, made once: making boto3 clients in two threads is not safe."""
    with _lock:
        return _process_storage()
