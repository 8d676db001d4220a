"""`defectscope orphans`: goes through all days, says what it finds, and mends it if told to."""

from rich.console import Console
from rich.progress import track

from shared import orphans, retention
from shared.db import transaction
from shared.storage import storage


def find_and_mend(*, mend: bool, console: Console) -> int:
    """How many orphans there are still. Stopped in the middle, it can be run again.

    Raises Unavailable where storage or database are away.
    """
    store = storage()
    with transaction() as session:
        days = list(orphans.days(session))
    objects = inspections = left = 0
    for organisation, day in track(days, "days", console=console, transient=True):
        stored = orphans.list_objects(store, organisation, day)
        with transaction() as session:
            found = orphans.find(session, stored, organisation, day)
        objects += len(found.objects)
        inspections += len(found.inspections)
        for key in found.objects:
            console.print(f"no row names {key}", soft_wrap=True)
            if mend:
                store.delete(key)
        for inspection in found.inspections:
            console.print(f"the photo of {inspection} is missing", soft_wrap=True)
        for inspection in found.without_map:
            console.print(f"a map of {inspection} is missing; its photo is there", soft_wrap=True)
        if found.inspections and not stored:
            left += len(found.inspections)
            console.print(f"nothing at all is stored of {day}: is this the right store? left alone")
        elif mend and found.inspections:
            with transaction() as session:
                retention.note_deleted(
                    session, found.inspections, actor="orphans", event=orphans.MISSING
                )
    found_in_all = objects + inspections
    mended = f"; {found_in_all - left} of them mended" if mend and found_in_all else ""
    console.print(
        f"{len(days)} days: {objects} objects without a row, {inspections} inspections whose "
        f"photo is missing{mended}"
    )
    return left if mend else found_in_all
