"""A worker whose engine looks at nothing, for campaigns in which the volume counts.

Everything around the networks is the real thing: claims, leases, storage, decoding, heads,
overlays, records.
"""

if __name__ == "__main__":
    # Only here: decoding processes import the main module as well, and have to stay small.
    from standin_engine import StandInEngines

    from worker import models
    from worker.__main__ import main

    models.Engines = StandInEngines  # type: ignore[assignment,misc]
    main()
