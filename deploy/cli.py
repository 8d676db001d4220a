"""The `defectscope` command: the place where everything is put together.

Heavy imports stand inside the commands, so that `--help` and `submit` are quick
and work where torch is not installed.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import platformdirs
import typer
from rich.markup import escape

from deploy.administration import keys_app, products_app, webhooks_app
from deploy.terminal import CommandError, Json, console, get_client
from shared.errors import DefectScopeError
from shared.logs import configure_logging
from shared.settings import get_settings

_DATA_DIR = Path(platformdirs.user_data_dir("defectscope"))

app = typer.Typer(
    name="defectscope",
    help="Visual inspection of parts: a verdict, a heat map and a second opinion for every photo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(products_app, name="products")
app.add_typer(keys_app, name="keys")
app.add_typer(webhooks_app, name="webhooks")


@app.callback()
def prepare() -> None:
    """What is worth a line goes to standard error; standard output is for results."""
    quiet = {"log_format": "console", "log_level": "warning"}
    configure_logging(get_settings().model_copy(update=quiet), process="defectscope")


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8000,
    data_dir: Annotated[
        Path, typer.Option(help="Where everything is kept between starts.")
    ] = _DATA_DIR,
    samples: Annotated[
        bool, typer.Option("--samples", help="Submit the bundled sample photos once it is ready.")
    ] = False,
) -> None:
    """Run the whole stack on this machine: PostgreSQL, Redis, API, worker. Ctrl-C stops it."""
    from deploy.local import LocalStack  # noqa: PLC0415
    from deploy.samples import show_samples  # noqa: PLC0415

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell script starts its background jobs with it ignored.
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    stack = LocalStack(
        data_dir, host=host, port=port, tell=lambda line: console.print(escape(line))
    )
    try:
        stack.start()
        # The contract with scripts: this line, on stdout, once photos can be judged.
        print(f"ready {stack.url}", flush=True)
        if samples:
            show_samples(stack.url, stack.admin_key, stack.data_dir / "samples", console)
        console.print(
            f"open {stack.url} in a browser; the API is described under {stack.url}/docs\n"
            f"access key (also in {stack.data_dir / 'admin.key'}): {stack.admin_key}\n"
            f"logs: {stack.data_dir / 'logs'}\n"
            "Ctrl-C stops everything; the data stays.",
            soft_wrap=True,
        )
        stack.watch()
    except KeyboardInterrupt:
        console.print("\nstopping …")
    finally:
        # A second Ctrl-C must not leave children behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stack.stop()
    console.print("stopped")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    what: Annotated[Literal["engine", "service", "gateway"], typer.Argument()],
    as_json: Json = False,
) -> None:
    """Measure against baselines in the same run; the last line is JSON. Options go through."""
    script = Path(__file__).parents[1] / "tests" / "benchmarks" / f"bench_{what}.py"
    if not script.is_file():
        raise CommandError("The benchmarks are in the source tree: run this from a checkout.")
    command = [sys.executable, str(script), *context.args, *(["--json"] if as_json else [])]
    raise typer.Exit(subprocess.call(command))  # noqa: S603 - our own script


@app.command()
def migrate() -> None:
    """Bring database and storage to what this release needs; make the first admin key valid."""
    from deploy.bootstrap import bootstrap  # noqa: PLC0415

    settings = get_settings()
    configure_logging(settings, process="migrate")
    bootstrap(settings)


@app.command()
def orphans(
    mend: Annotated[
        bool, typer.Option("--mend", help="Delete such objects, and note what is missing.")
    ] = False,
) -> None:
    """Find objects without a row, and inspections whose pictures are gone; exits 1 if any stay."""
    from deploy.orphans import find_and_mend  # noqa: PLC0415

    raise typer.Exit(1 if find_and_mend(mend=mend, console=console) else 0)


@app.command()
def submit(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders or globs.")],
    product: Annotated[str | None, typer.Option(help="May be left out if there is one.")] = None,
    lot: Annotated[str | None, typer.Option()] = None,
    line: Annotated[str | None, typer.Option()] = None,
    station: Annotated[str | None, typer.Option()] = None,
    overlays: Annotated[
        Path | None, typer.Option(help="Save the Grad-CAM overlays into this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Submit photos to a running service (DEFECTSCOPE_URL, DEFECTSCOPE_API_KEY).

    Exit code: 0 all pass, 1 something is defective or held, 2 an error.
    """
    from deploy.submit import submit_paths  # noqa: PLC0415

    part = {"product": product, "lot": lot, "line": line, "station": station}
    code = submit_paths(
        get_client(),
        paths,
        {name: value for name, value in part.items() if value},
        overlays=overlays,
        as_json=as_json,
        console=console,
    )
    raise typer.Exit(code)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder in MVTec layout.")],
    product: Annotated[str, typer.Option(help="Name of the product.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
    more: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders that `export` wrote: what people decided since."),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="`bundled`, `imagenet` (torchvision's), or a file of weights.")
    ] = "bundled",
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Train on all photos, those of test/ too, and measure by cross-validation with "
            "so many folds. Without it, test/ is held out as far as it can be.",
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(help="What the threshold is for: best-f1, recall=0.99, cost=20:1."),
    ] = "best-f1",
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for the figures of the folds: index.html and report.json."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train a product's model from a folder of photos. A killed training goes on when repeated."""
    from deploy.modelling import train_with_progress  # noqa: PLC0415

    train_with_progress(
        data,
        more=more or [],
        product=product,
        out=out,
        backbone=backbone,
        folds=folds,
        policy=policy,
        report=report,
        seed=seed,
    )


@app.command()
def export(
    product: Annotated[str, typer.Option(help="Name of the product.")],
    out: Annotated[Path, typer.Option(help="Folder to write to, or to bring up to date.")],
    since: Annotated[str | None, typer.Option(help="Accepted at or after, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Accepted before, ISO 8601.")] = None,
) -> None:
    """Write the parts that people decided as a data set to train on, with masks and decisions."""
    from deploy.export import export_with_progress  # noqa: PLC0415

    with get_client() as client:
        export_with_progress(client, out, product=product, since=since, until=until)


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    photos: Annotated[Path, typer.Argument(help="Folder of some twenty photos of good parts.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle.")],
) -> None:
    """Fit a bundle to another camera: statistics, limits and thresholds, from good parts alone."""
    from deploy.modelling import calibrate_with_progress  # noqa: PLC0415

    calibrate_with_progress(bundle, photos, out=out)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder in MVTec layout.")],
    report: Annotated[
        Path | None, typer.Option(help="Folder for the report: index.html and report.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a bundle on photos that it has not been trained on."""
    from deploy.modelling import evaluate_and_print  # noqa: PLC0415

    evaluate_and_print(bundle, data, report=report, as_json=as_json)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    paths: Annotated[list[str], typer.Argument(help="Photos, folders or globs.")],
    as_json: Json = False,
) -> None:
    """Judge photos in this process, without a service: the same pipeline."""
    from deploy.modelling import predict_and_print  # noqa: PLC0415

    raise typer.Exit(predict_and_print(bundle, paths, as_json=as_json))


@app.command()
def publish(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    activate: Annotated[
        bool, typer.Option("--activate", help="Judge photos with it from now on.")
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="Judge photos with it beside the active one, for comparison."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a bundle to a running service (DEFECTSCOPE_URL, DEFECTSCOPE_API_KEY)."""
    if activate and shadow:
        raise CommandError("--activate or --shadow: a version cannot be both.")
    with get_client() as client:
        version = client.publish(
            bundle,
            activate=activate,
            shadow=shadow,
            on_file=lambda name: console.print(f"sending {name} …"),
        )
    if as_json:
        print(json.dumps(version))
    state = "published, not active"
    if version["is_shadow"]:
        state = "in shadow"
    if version["is_active"]:
        state = "active"
    console.print(f"{version['product']}@{version['version']} {version['digest']}: {state}")


@app.command()
def render(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    count: Annotated[int, typer.Option(min=10, help="Photos in all.")] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Render overhead photos of bottles, good and defective, in MVTec layout."""
    from deploy.modelling import render_with_progress  # noqa: PLC0415

    render_with_progress(out, count=count, seed=seed)


def main() -> NoReturn:
    """Run a command; deliberate errors are a sentence on stderr and exit code 2."""
    from api.client import DefectScopeApiError, DefectScopeUnreachable  # noqa: PLC0415

    try:
        app(standalone_mode=True)
    except (DefectScopeError, DefectScopeApiError, DefectScopeUnreachable) as error:
        _say(str(error))
    except BrokenPipeError:
        pass
    except Exception as error:
        _say(f"{type(error).__name__}: {error}")
    sys.exit(2)


def _say(message: str) -> None:
    console.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True)


if __name__ == "__main__":
    main()
