"""Commands that look after a running service: its products and its keys."""

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console

from deploy.terminal import CommandError, Json, console, get_client

ProductName = Annotated[str, typer.Argument(help="Name of the product.")]

products_app = typer.Typer(
    help="Versions of a running service's products: list, activate, roll back, shadow, retention.",
    no_args_is_help=True,
)
keys_app = typer.Typer(
    help="Keys of a running service: create, list, revoke.", no_args_is_help=True
)

webhooks_app = typer.Typer(help="Webhooks: what arrives.", no_args_is_help=True)


@webhooks_app.command()
def listen(
    secret: Annotated[str, typer.Option(help="`whsec_…` of the endpoint.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 9000,
) -> None:
    """Receive webhooks, verify and print them: to see what a receiver of your own would get."""
    from deploy.examples.receiver import make_server  # noqa: PLC0415

    try:
        server = make_server(host, port, secret, lambda text: print(text, flush=True))
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(f"listening on port {server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


@products_app.command("list")
def list_products(as_json: Json = False) -> None:
    """Products with their active and shadow versions."""
    from deploy.tables import print_products  # noqa: PLC0415

    with get_client() as client:
        products = client.products()
    if as_json:
        print(json.dumps(products))
    else:
        print_products(products, Console())


@products_app.command("activate")
def activate_version(name: ProductName, version: Annotated[int, typer.Argument()]) -> None:
    """Judge photos by this version from now on."""
    with get_client() as client:
        product = client.activate(name, version)
    console.print(f"{name}@{product['active_version']} is active")


@products_app.command()
def rollback(name: ProductName) -> None:
    """Activate the version that was active before; once more, the one before that."""
    with get_client() as client:
        product = client.roll_back(name)
    console.print(f"{name}@{product['active_version']} is active again")


@products_app.command()
def shadow(
    name: ProductName,
    version: Annotated[int | None, typer.Argument(help="Start with this version.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the shadow.")] = False,
    as_json: Json = False,
) -> None:
    """Start or stop a shadow; with neither, see how it compares with the active version."""
    from deploy.tables import print_shadow  # noqa: PLC0415

    if stop and version is not None:
        raise CommandError("Give a version to start, or --stop, not both.")
    with get_client() as client:
        if stop:
            client.stop_shadow(name)
            console.print(f"{name} has no shadow now")
            return
        if version is not None:
            client.start_shadow(name, version)
        summary = client.shadow(name)
    if as_json:
        print(json.dumps(summary))
    else:
        print_shadow(summary, Console())


@products_app.command()
def retention(
    name: ProductName,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days after the verdict; left out: for ever.")
    ] = None,
) -> None:
    """Delete originals and maps some days after the verdict; verdicts are kept."""
    with get_client() as client:
        client.set_retention(name, days)
    console.print(f"{name}: pictures are kept " + ("for ever" if days is None else f"{days} days"))


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What it is for.")],
    scope: Annotated[list[str], typer.Option(help="submit, read, review or admin; repeatable.")],
    days: Annotated[int | None, typer.Option(min=1, help="Valid for so many days.")] = None,
    requests_per_second: Annotated[int | None, typer.Option(min=1)] = None,
    max_queued: Annotated[int | None, typer.Option(min=1)] = None,
    as_json: Json = False,
) -> None:
    """Create a key. It is printed on stdout, this once."""
    with get_client() as client:
        made = client.create_key(
            name=name,
            scopes=scope,
            expires_at=None if days is None else datetime.now(UTC) + timedelta(days=days),
            requests_per_second=requests_per_second,
            max_queued=max_queued,
        )
    print(json.dumps(made) if as_json else made["key"])


@keys_app.command("list")
def list_keys(as_json: Json = False) -> None:
    """All keys, never their secrets."""
    from deploy.tables import print_keys  # noqa: PLC0415

    with get_client() as client:
        keys = client.keys()
    if as_json:
        print(json.dumps(keys))
    else:
        print_keys(keys, Console())


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="`key_…`, as `list` shows it.")]) -> None:
    """Make a key useless, at once and for good."""
    with get_client() as client:
        client.revoke_key(key_id)
    console.print(f"{key_id} is revoked")
