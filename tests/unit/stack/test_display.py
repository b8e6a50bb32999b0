from __future__ import annotations

import io

from rich.console import Console

from tollgate.stack.display import StartDisplay


def test_without_a_terminal_every_change_is_a_line() -> None:
    output = io.StringIO()
    with StartDisplay(["postgres", "web[1]"], Console(file=output)) as display:
        display.change("postgres", "starting")
        display.change("postgres", "healthy", "in /home")
        display.change("web[1]", "starting")
        display.change("web[1]", "failed")
    lines = output.getvalue().splitlines()
    assert lines[0] == "postgres: starting"
    assert lines[1].startswith("postgres: healthy after 0.")
    assert lines[1].endswith("in /home")
    assert lines[3].startswith("web[1]: failed after")
    assert set(display.seconds) == {"postgres", "web[1]"}


def test_on_a_terminal_a_table_shows_all_parts_also_the_waiting_ones() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with StartDisplay(["postgres", "web"], console) as display:
        display.change("postgres", "healthy", "here")
    final = output.getvalue()
    assert "waiting" in final
    assert "healthy" in final
