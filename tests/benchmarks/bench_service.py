"""The service end to end, against its engine alone and against two model servers, in the same run.

    defectscope bench service

Photos are submitted over HTTP to a gateway and judged by a worker on the same machine; the clock
runs until the last verdict is recorded. Baselines:

- engine: the same files through the same engine in one process, without a service;
- litserve, bentoml: the obvious pipeline (obvious.py) behind LitServe and BentoML with their own
  batching, 16 clients (litserve_server.py, bentoml_server.py);
- tuned: our pipeline on its engine in plain PyTorch behind LitServe, for whoever asks how much of
  the rest is the engine.

The model servers answer and keep nothing.

Then one photo on the idle service, and the time to a verdict over growing load. Rounds alternate;
servers whose turn it is not are stopped, so that they take nothing from the others. The last line
is JSON.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from load import Seen, await_port, checked, free_port, send
from measuring import BOTTLE, Rates, finish, judge, render_photos, tell, tell_ratio
from sqlalchemy import Engine, create_engine, text

from deploy.local import LocalStack
from worker.inspect.bundle import ProductModel
from worker.inspect.files import open_bundle
from worker.inspect.pipeline import Inspector

HERE = Path(__file__).parent
LOADS = (0.1, 0.3, 0.5, 0.7, 0.85)
"""Of the measured throughput."""
_IDLE_PHOTOS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=200, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--plot", type=Path, help="write the plot of latency over load here")
    parser.add_argument("--json", action="store_true", help="only the JSON")
    arguments = parser.parse_args()

    photos = render_photos(16, ".jpg")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = LocalStack(folder / "data", host="127.0.0.1", port=0, tell=lambda _: None)
        servers: dict[str, subprocess.Popen[bytes]] = {}
        try:
            stack.start()
            ports = {name: free_port() for name in ("litserve", "bentoml", "tuned")}
            for served, options in (("litserve", []), ("tuned", ["--tuned"])):
                script = [str(HERE / "litserve_server.py"), str(BOTTLE), str(ports[served])]
                servers[served] = start([sys.executable, *script, *options])
            servers["bentoml"] = start(
                [
                    str(Path(sys.executable).with_name("bentoml")),
                    *("serve", "bentoml_server:Inspection"),
                    *("--host", "127.0.0.1", "--port", str(ports["bentoml"])),
                ],
            )
            for port in ports.values():
                await_port(port)
            measure(arguments, stack, servers, ports, photos, folder)
        finally:
            for server in servers.values():
                end(server)
            stack.stop()


def measure(
    arguments: argparse.Namespace,
    stack: LocalStack,
    servers: dict[str, subprocess.Popen[bytes]],
    ports: dict[str, int],
    photos: list[bytes],
    folder: Path,
) -> None:
    paths = []
    for number in range(arguments.photos):
        path = folder / f"{number:03}.jpg"
        path.write_bytes(photos[number % len(photos)])
        paths.append(path)
    inspector, model = open_bundle(BOTTLE)
    database = create_engine(stack.database_url)
    rates: dict[str, list[float]] = {name: [] for name in ("service", "engine", *servers)}
    for number in range(arguments.rounds + 1):
        for server in servers.values():
            pause(server)
        found = {
            "service": through_service(stack, database, photos, arguments),
            "engine": through_engine(inspector, model, paths),
        }
        for name, server in servers.items():
            resume(server)
            url = f"http://127.0.0.1:{ports[name]}/predict"
            few = max(32, arguments.photos // 4)
            found[name] = checked(
                send(url, photos, headers={}, requests=few, clients=arguments.clients)
            ).rate
            pause(server)
        if number:  # the first round warms
            for name, rate in found.items():
                rates[name].append(rate)
    by_name = {name: Rates(values) for name, values in rates.items()}
    idle, alone = idle_latencies(stack, photos[0], inspector, model, paths[0])
    load = over_load(stack, photos, by_name["service"].median)
    ratios = {name: by_name["service"].over(by_name[name]) for name in ("engine", *servers)}
    if not arguments.json:
        for name, some in by_name.items():
            tell(name, some)
        for name, ratio in ratios.items():
            tell_ratio(f"service against {name}", ratio)
        print(f"one photo on the idle service: p50 {idle:.1f} ms; the engine alone {alone:.1f} ms")
        for share, seen in load.items():
            print(
                f"at {share:.0%} of the throughput: p50 {seen.percentile(50):.0f} ms, "
                f"p95 {seen.percentile(95):.0f} ms"
            )
    if arguments.plot:
        plot(load, by_name["service"].median, arguments.plot)
    finish(
        {
            "bench": "service",
            "engine": inspector.engine.name,
            "images_per_s": round(by_name["service"].median, 2),
            "ratios": {name: ratio["median"] for name, ratio in ratios.items()},
            "spread": {name: [ratio["low"], ratio["high"]] for name, ratio in ratios.items()},
            "idle_ms": {"service": round(idle, 1), "engine": round(alone, 1)},
            "over_load": {
                str(share): {
                    "p50_ms": round(seen.percentile(50)),
                    "p95_ms": round(seen.percentile(95)),
                }
                for share, seen in load.items()
            },
        },
        as_json=arguments.json,
    )


def through_service(
    stack: LocalStack, database: Engine, photos: list[bytes], arguments: argparse.Namespace
) -> float:
    """Photos a second, from the first submission until the last verdict is recorded."""
    before = recorded(database)
    seen = checked(
        send(
            f"{stack.url}/v1/inspections",
            photos,
            headers={"X-API-Key": stack.admin_key},
            requests=arguments.photos,
            clients=arguments.clients,
        )
    )
    while recorded(database) - before < arguments.photos:
        time.sleep(0.02)
    return arguments.photos / (time.perf_counter() - seen.started)


def recorded(database: Engine) -> int:
    with database.connect() as connection:
        return int(
            connection.execute(
                text("SELECT count(*) FROM inspections WHERE status = 'succeeded'")
            ).scalar_one()
        )


def through_engine(inspector: Inspector, model: ProductModel, paths: list[Path]) -> float:
    started = time.perf_counter()
    judge(inspector, model, paths)
    return len(paths) / (time.perf_counter() - started)


def idle_latencies(
    stack: LocalStack, photo: bytes, inspector: Inspector, model: ProductModel, path: Path
) -> tuple[float, float]:
    """Median milliseconds of one photo at a time: from submission to the verdict in the reply, and
    through the engine alone, in turn.
    """
    times: dict[str, list[float]] = {"service": [], "engine": []}
    with httpx.Client(headers={"X-API-Key": stack.admin_key, "Prefer": "wait=20"}) as http:
        for number in range(_IDLE_PHOTOS + 5):
            started = time.perf_counter()
            answer = http.post(f"{stack.url}/v1/inspections", files={"file": ("x.jpg", photo)})
            middle = time.perf_counter()
            if answer.status_code != 200:
                raise SystemExit(f"not judged: {answer.text}")
            time.sleep(0.05)  # what follows a verdict in the worker is not the engine's to bear
            resumed = time.perf_counter()
            judge(inspector, model, [path])
            ended = time.perf_counter()
            time.sleep(0.05)
            if number >= 5:
                times["service"].append((middle - started) * 1000)
                times["engine"].append((ended - resumed) * 1000)
    return statistics.median(times["service"]), statistics.median(times["engine"])


def over_load(stack: LocalStack, photos: list[bytes], throughput: float) -> dict[float, Seen]:
    """Milliseconds from when a photo was due until its verdict was in the reply."""
    return {
        share: checked(
            send(
                f"{stack.url}/v1/inspections",
                photos,
                headers={"X-API-Key": stack.admin_key, "Prefer": "wait=30"},
                requests=max(60, round(20 * share * throughput)),
                clients=64,
                rate=share * throughput,
            )
        )
        for share in LOADS
    }


def plot(load: dict[float, Seen], throughput: float, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    offered = [share * throughput for share in load]
    for q, colour in ((50, "#1f77b4"), (95, "#d62728")):
        axes.plot(
            offered, [s.percentile(q) for s in load.values()], "o-", color=colour, label=f"p{q}"
        )
    axes.axvline(throughput, color="#888888", linestyle="--", label="throughput")
    axes.set(xlabel="photos a second", ylabel="submission to verdict, ms", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "BENCH_BUNDLE": str(BOTTLE), "BENTOML_DO_NOT_TRACK": "True"}
    return subprocess.Popen(
        command,
        cwd=HERE,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def family(server: subprocess.Popen[bytes]) -> list[psutil.Process]:
    process = psutil.Process(server.pid)
    return [process, *process.children(recursive=True)]


def pause(server: subprocess.Popen[bytes]) -> None:
    for process in family(server):
        process.send_signal(signal.SIGSTOP)


def resume(server: subprocess.Popen[bytes]) -> None:
    for process in family(server):
        process.send_signal(signal.SIGCONT)


def end(server: subprocess.Popen[bytes]) -> None:
    """With all its children: LitServe's outlive a server that is asked to end."""
    for process in family(server):
        process.kill()
    server.wait()


if __name__ == "__main__":
    main()
