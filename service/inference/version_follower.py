"""Follower in a worker: prepares what the parent plans, and switches when the parent says so."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from service.inference.model_registry import ModelRegistry
from service.repository.plan import Plan, Report, State
from service.repository.relay import Answers, Asked, Relay
from service.repository.shared_json import SharedJson
from service.system.priority import use_idle_processor
from service.telemetry.logs import set_level

logger = logging.getLogger("limelight.repository")

# Beyond the deadline of the last request that may use an old version.
_CLOSE_LATER_S = 1.0
_WAIT_S = 0.02
# Interval at which a worker reports which versions were used.
_REPORT_S = 2.0


class Follower:
    """Follower of the parent's coordinator, for one worker.

    Args:
        shared: memory of the parent.
        worker: number of this worker, from 0.
        registry: models of this worker.
        timeout_s: longest time that a request may take.
    """

    def __init__(
        self, shared: SharedJson, worker: int, registry: ModelRegistry, *, timeout_s: float
    ) -> None:
        self._shared = shared
        self._slot = 1 + worker
        self._registry = registry
        self._close_after_s = timeout_s + _CLOSE_LATER_S
        self._prepared = 0
        self._noted: State | None = None
        self._active = 0
        self._reported, self._reported_at = Report(0, 0), 0.0
        self._preparing: asyncio.Task[None] | None = None
        # ONNX Runtime's threads, if a forward pass has several, would inherit the priority.
        self._loading = ThreadPoolExecutor(
            1,
            thread_name_prefix="limelight-load",
            initializer=use_idle_processor if registry.threads == 1 else None,
        )
        self._switching: asyncio.TimerHandle | None = None

    def load(self) -> None:
        """Load what the other workers serve; this may run in a thread."""
        state = self._state(wait=True)
        if state is None:
            self._registry.load()
            return
        failed = self._registry.load(state)
        self._active = state.active.generation
        self._report(state.active, failed)
        set_level(state.log_level)

    def relay(self, draining: Callable[[], bool]) -> Relay:
        """Return the way of clients' commands to the parent."""

        def write(asked: Asked) -> None:
            self._write(replace(self._reported, asked=asked))

        def read() -> Answers | None:
            state = self._state()
            return None if state is None else state.answers

        return Relay(write, read, draining)

    def check(self) -> None:
        """Prepare or activate what the parent has planned since the last call.

        Call this in the event loop, four times a second.
        """
        state = self._state()
        if state is None or self._active == 0:
            return
        if state.active.generation == self._active:
            if state != self._noted:
                self._noted = state
                set_level(state.log_level)
                self._registry.note(state)
            # Not while a switch is due: it closes versions that the next plan may need again.
            if state.target.generation != self._prepared and self._preparing is None:
                self._registry.discard_prepared(state.target)
                self._preparing = asyncio.create_task(self._prepare(state.target))
        elif state.active.generation == self._prepared and self._switching is None:
            loop = asyncio.get_running_loop()
            delay = max(0.0, state.since - time.monotonic())
            self._switching = loop.call_later(delay, self._switch, state)
        used = self._reported.used
        if time.monotonic() - self._reported_at >= _REPORT_S:
            self._reported_at, used = time.monotonic(), self._registry.used()
        report = replace(
            self._reported,
            rollouts=self._registry.rollouts.tallies(),
            used=used,
            default=self._registry.default,
        )
        if report != self._reported:
            self._write(report)

    def close(self) -> None:
        """Stop following."""
        if self._preparing is not None:
            self._preparing.cancel()
        if self._switching is not None:
            self._switching.cancel()
        self._loading.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, plan: Plan) -> None:
        try:
            loop = asyncio.get_running_loop()
            failed = await loop.run_in_executor(self._loading, self._prepare_in_turn, plan)
            self._report(plan, failed)
        finally:
            self._preparing = None

    def _prepare_in_turn(self, plan: Plan) -> dict[str, str]:
        """Load the models of `plan` while no other worker does, so that those answer as usual."""
        with self._shared.turn():
            return self._registry.prepare(plan)

    def _switch(self, state: State) -> None:
        self._switching = None
        self._active = state.active.generation
        self._registry.activate(state, close_after_s=self._close_after_s)

    def _report(self, plan: Plan, failed: dict[str, str]) -> None:
        self._prepared = plan.generation
        short = {key: reason[:2000] for key, reason in failed.items()}
        self._write(
            Report(
                os.getpid(),
                plan.generation,
                short,
                rollouts=self._registry.rollouts.tallies(),
                memory=self._registry.memory(),
                used=self._registry.used(),
                asked=self._reported.asked,
                default=self._registry.default,
            )
        )

    def _write(self, report: Report) -> None:
        self._reported = report
        self._shared.write(self._slot, report.to_json())

    def _state(self, *, wait: bool = False) -> State | None:
        content = self._shared.read(0)
        for _ in range(50 if wait and content is None else 0):
            time.sleep(_WAIT_S)
            content = self._shared.read(0)
            if content is not None:
                break
        return None if content is None else State.from_json(content)
