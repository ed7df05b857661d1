"""The master of several processes: starts them, replaces those that die, passes on what signals ask.

It is small, and knows neither Kafka nor the application, nor gevent: a program of its own, which
``gworkers.cli.run`` becomes, and which gets its plan as JSON.

    start   a worker process for each number, by exec; each is a member of the group
    serve   write the workers' lines to one stream; a worker that dies is started again, after a pause
            that grows; those that die at once again and again end it all with 70
    stop    ask the workers, wait for them, end with the worst of their statuses

Between the master and a worker there are two pipes. On the one the master asks (``stop``, ``now``,
``quit``, ``stacks``, ``logs``, ``quiet``, ``resume``); when it ends without a word the master has
died, and the worker drains. On the other the worker tells, a JSON object a line: ``started``,
``joined``, ``admin``, ``recycle``, ``well``, ``ended`` (with which status).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import sys
import time
from collections import deque
from typing import Any

from gworkers import titles
from gworkers.supervisor.helpers import AdminHelper, Reload, write_run_file
from gworkers.supervisor.lines import read_now, write_all
from gworkers.supervisor.notify import Notify
from gworkers.supervisor.worker import Worker

OK, UNSETTLED, INTERNAL, RESTART = 0, 1, 70, 75
#: Statuses with which a worker says that starting it again does not help: usage, the breaker of dead
#: letters, Kafka, the configuration.
FINAL = (64, 65, 69, 78)

#: Seconds before a worker that died is started again: the first time, and at the most.
PAUSE, LONGEST_PAUSE = 0.1, 30.0
#: One that lived for so long, in seconds, was well. After so many in a row that were not, it is given
#: up.
WELL, DEATHS = 10.0, 6
#: How much longer than its grace a worker may take to end before it is killed, in seconds.
PATIENCE = 30.0
#: How long a replaced worker's successor has to join its group before the next one is replaced, in
#: seconds.
JOIN_TIMEOUT = 60.0


class Master:
    """See the head of this file. plan: command (of a worker), check (a command that prints a plan),
    processes, json (whether log lines are), until_idle, grace, servers, run_file, pid_file, admin."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.workers: dict[int, Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._wanted = int(plan["processes"])
        self._asked = 0  # how often it was asked to stop
        self._status = OK
        self._stopping = False
        self._replace: deque[int] = deque()  # numbers to be replaced, one after the other
        self._replacing: tuple[int, float] | None = None
        self._reload = Reload(plan["check"], self._selector)
        self._admin = AdminHelper(plan["admin"])
        self._notify = Notify(os.environ)
        self._ready = False  # whether the service manager knows that it is
        self._told = 0.0  # when it was last told
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in signal.Signals:
            if hasattr(self, f"_{number.name.lower()}"):
                signal.signal(number, lambda number, frame: None)  # _on_signals does it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))  # they wait since before it became this program
        self._selector.register(self._wake, selectors.EVENT_READ, ("signals", None))

    # -- life

    def run(self) -> int:
        self.say(f"{self._wanted} processes, pid {os.getpid()}")
        titles.show(f"master, {self.plan['config']}")
        write_run_file(self.plan, None)
        self._start_admin()
        for number in range(self._wanted):
            self._begin(number)
        while not self._through():
            for key, _ in self._selector.select(self._wait()):
                if self._selector.get_map().get(key.fd) == key:  # not closed by what came before it
                    what, worker = key.data
                    getattr(self, f"_on_{what}")(key.fd, worker)
            self._look()
        self._admin.end()
        for name in ("run_file", "pid_file"):
            with contextlib.suppress(OSError, TypeError):
                os.unlink(self.plan[name])
        self.say("all processes have ended")
        return self._status

    def _start_admin(self) -> None:
        if not self.plan["admin"]:
            return
        address = self._admin.start()
        if address is None:
            self.say("the admin address cannot be had; so all of them end")
            self._stop(self._admin.status or INTERNAL)
            return
        self.say(f"admin at {address}{self.plan['page_at'].format(address)}")
        write_run_file(self.plan, address)
        self._tell_admin()

    def _tell_admin(self) -> None:
        self._admin.tell({worker.number: worker.admin for worker in self.workers.values() if worker.running})

    def _through(self) -> bool:
        alive = any(worker.running for worker in self.workers.values())
        return not alive and (self._stopping or all(worker.over for worker in self.workers.values()))

    def _wait(self) -> float:
        now = time.monotonic()
        due = [worker.due - now for worker in self.workers.values() if worker.due is not None]
        return max(0.0, min([1.0, *due]))

    def _look(self) -> None:
        """What is due by now."""
        now = time.monotonic()
        for worker in list(self.workers.values()):
            if worker.due is not None and now >= worker.due:
                worker.due = None
                self._begin(worker.number)
            if worker.running and worker.asked_at is not None and now - worker.asked_at > self.plan["grace"] + PATIENCE:
                self.say(
                    f"process {worker.number} (pid {worker.pid}) was asked to end {now - worker.asked_at:.0f} s ago and has not: killed"
                )
                worker.asked_at = now
                worker.kill()
        if self._stopping:
            return
        self._tell_manager(now)
        if self._replacing is not None:
            worker_, since = self.workers.get(self._replacing[0]), self._replacing[1]
            if worker_ is None or worker_.joined or worker_.over or now - since > JOIN_TIMEOUT:
                self._replacing = None
        if self._replacing is None and self._replace:
            number = self._replace.popleft()
            if number in self.workers:
                self._replacing = (number, math.inf)  # until it has ended
                self._retire(self.workers[number])

    def _tell_manager(self, now: float) -> None:
        """That all of them serve, once; and while a watchdog watches, that all of them are well."""
        running = [worker for worker in self.workers.values() if worker.running]
        started = [worker for worker in running if worker.started]
        if not self._ready and len(started) >= self._wanted and not self._replace and self._replacing is None:
            self._ready = True
            self._notify.ready(f"{len(started)} processes serve")
        watchdog = self._notify.watchdog
        well = running and watchdog is not None and all(now - max(worker.began, worker.well) < watchdog for worker in running)
        if well and watchdog is not None and now - self._told > watchdog / 3:
            self._told = now
            self._notify.well()

    # -- workers

    def _begin(self, number: int) -> None:
        worker = self.workers.setdefault(number, Worker(number, self._selector, json=self.plan["json"]))
        try:
            worker.begin(self.plan["command"], self.plan["servers"], self._notify.watchdog)
        except OSError as error:
            self.say(f"process {number} cannot be started: {error.strerror}")
            worker.due = time.monotonic() + 1.0

    def _retire(self, worker: Worker) -> None:
        """Have it drain and end."""
        worker.retiring, worker.joined = True, False
        worker.end()

    def _ended(self, worker: Worker, pid: int, status: int) -> None:
        lived = time.monotonic() - worker.began
        self._tell_admin()
        if self._stopping:
            at_its_start = status == -signal.SIGTERM and not worker.started  # it did not listen yet
            self._status = _worse(self._status, status if not at_its_start else OK)
        elif worker.retiring:
            if worker.number >= self._wanted:
                del self.workers[worker.number]
            else:
                if self._replacing is not None and self._replacing[0] == worker.number:
                    self._replacing = (worker.number, time.monotonic())
                self._begin(worker.number)
        elif status == OK and self.plan["until_idle"]:
            worker.over = True
        elif status in FINAL:
            self.say(f"process {worker.number} (pid {pid}) ended with {status}; so all of them do")
            self._stop(status)
        elif status in (OK, UNSETTLED, RESTART):
            worker.deaths = 0
            self.say(f"process {worker.number} (pid {pid}) ended with {status}; another takes its place")
            worker.due = time.monotonic() + PAUSE
        else:
            self._died(worker, pid, status, lived)

    def _died(self, worker: Worker, pid: int, status: int, lived: float) -> None:
        worker.deaths = worker.deaths + 1 if lived < WELL else 1
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        if worker.deaths >= DEATHS:
            self.say(f"process {worker.number} (pid {pid}) {how}, {worker.deaths} times in a row at once; all of them end. Its last lines:")
            for line in worker.last:
                self.say(f"  {line}")
            self._stop(INTERNAL)
            return
        pause = min(LONGEST_PAUSE, PAUSE * 2 ** (worker.deaths - 1)) if worker.deaths > 1 else 0.0
        self.say(f"process {worker.number} (pid {pid}) {how}; another takes its place{f' in {pause:.1f} s' if pause else ''}")
        worker.due = time.monotonic() + pause

    def _stop(self, status: int = OK, what: str = "stop") -> None:
        self._stopping = True
        self._notify.stopping()
        self._status = _worse(self._status, status)
        self._replace.clear()
        for worker in self.workers.values():
            worker.end(what)

    # -- what comes

    def _on_signals(self, fd: int, _: None) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(fd, 4096):
                handler = getattr(self, f"_{signal.Signals(number).name.lower()}", None)
                if handler is not None:
                    handler()

    def _sigchld(self) -> None:
        for worker in list(self.workers.values()):
            pid, status = worker.pid, worker.ended()
            if status is not None:
                self._ended(worker, pid, status)
        found = self._reload.ended()
        if found is not None:
            self._reloaded(*found)
        if self._admin.ended() and not self._stopping:
            self._start_admin()

    def _sigterm(self) -> None:
        self._asked += 1
        if self._asked > 1:
            self.say("SIGTERM again: ending at once; what was running will be delivered again")
        self._stop(what="stop" if self._asked == 1 else "now")

    _sigint = _sigterm

    def _sigquit(self) -> None:
        self._stop(what="quit")

    def _sigusr1(self) -> None:
        self._all("stacks")

    def _sigusr2(self) -> None:
        self._all("logs")

    def _sigtstp(self) -> None:
        self._all("quiet")

    def _sigcont(self) -> None:
        self._all("resume")

    def _all(self, what: str) -> None:
        for worker in self.workers.values():
            worker.ask(what)

    def _sigttin(self) -> None:
        self._scale(self._wanted + 1)

    def _sigttou(self) -> None:
        self._scale(max(1, self._wanted - 1))

    def _scale(self, wanted: int) -> None:
        if self._stopping:
            return
        self.say(f"{wanted} processes from now on, {self._wanted} before")
        before, self._wanted = self._wanted, wanted
        for number in range(before, wanted):
            if number not in self.workers:
                self._begin(number)
        for number in [number for number in self.workers if number >= wanted]:
            worker = self.workers[number]
            if not worker.running:
                del self.workers[number]
            else:
                self._retire(worker)

    def _sighup(self) -> None:
        if not self._stopping:
            self._reload.begin()

    def _on_reload(self, fd: int, _: None) -> None:
        self._reload.take(fd)

    def _reloaded(self, good: bool, lines: list[str]) -> None:
        if not good or not lines:
            self.say("SIGHUP: the configuration is as it was, because the new one is not right:")
            for line in lines:
                self.say(f"  {line}")
            return
        self.plan |= json.loads(lines[-1])
        self.say("SIGHUP: the processes are replaced one by one")
        self._notify.reloading()
        self._ready = False
        self._replace.extend(number for number in sorted(self.workers) if number < self.plan["processes"] and number not in self._replace)
        if self.plan["processes"] != self._wanted:
            self._scale(self.plan["processes"])

    def _on_told(self, fd: int, worker: Worker) -> None:
        data = read_now(fd)
        if data == b"":
            self._selector.unregister(fd)
            os.close(fd)
            worker.told = worker.told if worker.told != fd else None
        for facts in worker.take_facts(data or b""):
            if "admin" in facts:
                self._tell_admin()
            if "recycle" in facts and worker.number not in self._replace:
                self.say(f"process {worker.number} is replaced: {facts['recycle']}")
                self._replace.append(worker.number)
            if self._stopping and "started" in facts:
                worker.ask("stop")  # it may have begun to listen after it was sent a signal

    # -- lines

    def _on_lines(self, fd: int, worker: Worker) -> None:
        worker.take_lines(fd)

    def say(self, text: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
        if self.plan["json"]:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
            line = json.dumps({"time": stamp, "level": "INFO", "logger": "gworkers.master", "message": text}, ensure_ascii=False)
        else:
            line = f"{stamp} INFO gworkers.master: {text}"
        write_all(2, line.encode("utf-8", "backslashreplace") + b"\n")


def _worse(a: int, b: int) -> int:
    """Of two statuses the one to end with: an error before unsettled messages, these before
    nothing."""
    a, b = (INTERNAL if status < 0 else status for status in (a, b))
    return max(a, b)


if __name__ == "__main__":
    sys.exit(Master(json.loads(sys.argv[1])).run())
