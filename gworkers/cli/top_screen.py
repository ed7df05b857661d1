"""The screen of ``gworkers top``: a head, and one of four tables.

A thread looks at the server each so many seconds and hands what it saw to the screen; a server that
does not answer is said so, and looked for again.
"""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Input, Static, Tab, Tabs

from gworkers.cli.look import TABLES, Look, Looking, Table
from gworkers.errors import GworkersError


class TopScreen(App[None]):
    """looking: where what is shown comes from; interval: seconds between two looks."""

    CSS = """
    #head { height: auto; padding: 0 1; }
    #said { height: auto; padding: 0 1; color: $text-warning; }
    Tabs { height: 2; }
    DataTable { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    #filter.shown { display: block; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"show('{name}')", name, show=False) for number, name in enumerate(TABLES, 1)),
        Binding("shift+tab", "next(-1)", show=False, priority=True),
        Binding("tab", "next(1)", show=False, priority=True),
        Binding("s", "sort", "sort"),
        Binding("slash", "filter", "filter", key_display="/"),
        Binding("p", "pause(True)", "pause"),
        Binding("r", "pause(False)", "resume"),
        Binding("y", "sure", show=False),
        Binding("escape", "leave", show=False),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, looking: Looking, interval: float) -> None:
        super().__init__()
        self._looking = looking
        self._interval = interval
        self._look: Look | None = None
        self._table = TABLES[0]
        self._sort: dict[str, int] = {}  # by table the column, none for the order that it comes in
        self._filter = ""
        self._asked: tuple[dict[str, Any], bool] | None = None  # to be paused or resumed, once it is said to be meant
        self._shown: list[dict[str, Any]] = []  # by row of the table

    def compose(self) -> ComposeResult:
        yield Static("looking for the server …", id="head", markup=False)
        yield Tabs(*(Tab(f"{number} {name}", id=name) for number, name in enumerate(TABLES, 1)))
        with Vertical():
            yield DataTable[Text](cursor_type="row", zebra_stripes=True)
            yield Input(placeholder="rows that contain this; Enter keeps it, Esc drops it", id="filter")
        yield Static("", id="said", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Tabs).can_focus = False
        self.query_one(DataTable).focus()
        self.look_again()
        self.set_interval(self._interval, self.look_again)

    # -- what is seen

    @work(thread=True, exclusive=True, exit_on_error=True)
    def look_again(self) -> None:
        try:
            look = self._looking.look(self._table)
        except GworkersError as error:
            self.call_from_thread(self._gone, str(error))
            return
        self.call_from_thread(self._see, look)

    def _gone(self, why: str) -> None:
        self.query_one("#head", Static).update(f"{why}; looking again")

    def _see(self, look: Look) -> None:
        self._look = look
        self.query_one("#head", Static).update("\n".join(look.head))
        self._draw()

    def _draw(self) -> None:
        widget = self.query_one(DataTable)
        if self._look is None or self._look.name != self._table:
            widget.clear(columns=True)  # until it has been looked at
            self._shown = []
            return
        table = self._look.table
        at, scrolled = widget.cursor_row, widget.scroll_offset
        widget.clear(columns=True)
        by = self._sort.get(self._table)
        for index, column in enumerate(table.columns):
            mark = " ▼" if index == by else ""
            widget.add_column(Text(f"{column.removeprefix('>')}{mark}", justify="right" if column.startswith(">") else "left"))
        order = self._order(table, by)
        for index in order:
            cells = zip(table.columns, table.rows[index].cells, strict=True)
            widget.add_row(*(Text(cell, justify="right" if column.startswith(">") else "left") for column, cell in cells))
        self._shown = [table.rows[index].selection for index in order]
        widget.move_cursor(row=min(at, max(0, len(order) - 1)))
        widget.scroll_to(*scrolled, animate=False)

    def _order(self, table: Table, by: int | None) -> list[int]:
        wanted = [index for index, row in enumerate(table.rows) if self._filter in " ".join(row.cells).lower()]
        if by is not None:
            numbers = table.columns[by].startswith(">")
            wanted.sort(key=lambda index: table.rows[index].keys[by], reverse=numbers)
        return wanted

    # -- keys

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        if event.tab is not None and event.tab.id is not None:
            self._table = event.tab.id
            self.query_one(DataTable).move_cursor(row=0)
            self._draw()
            self.look_again()

    def action_show(self, name: str) -> None:
        self.query_one(Tabs).active = name

    def action_next(self, step: int) -> None:
        self.action_show(TABLES[(TABLES.index(self._table) + step) % len(TABLES)])

    def action_sort(self) -> None:
        """By the next column; after the last in the order that the rows come in."""
        if self._look is None or self._look.name != self._table:
            return
        by = self._sort.pop(self._table, -1) + 1
        if by < len(self._look.table.columns):
            self._sort[self._table] = by
        self._draw()

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.add_class("shown")
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._filter = event.value.lower()
        self._draw()

    def on_input_submitted(self) -> None:
        self._close_filter()
        self._say(f"rows with {self._filter}; Esc: all" if self._filter else "")

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).remove_class("shown")
        self.query_one(DataTable).focus()

    def action_leave(self) -> None:
        self.query_one("#filter", Input).value = ""
        self._close_filter()
        self._asked = None
        self._say("")

    def action_pause(self, on: bool) -> None:
        row = self.query_one(DataTable).cursor_row
        if not 0 <= row < len(self._shown):
            return
        self._asked = (self._shown[row], on)
        told = ", ".join(f"{name} {value}" for name, value in self._asked[0].items())
        self._say(f"{'pause' if on else 'resume'} {told}? y: yes, Esc: no")

    def action_sure(self) -> None:
        if self._asked is not None:
            (selection, on), self._asked = self._asked, None
            self._change(selection, on)

    @work(thread=True)
    def _change(self, selection: dict[str, Any], on: bool) -> None:
        try:
            told = self._looking.pause(selection, on=on)
        except GworkersError as error:
            told = str(error)
        self.call_from_thread(self._say, told)

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(text)
