"""What goes wrong, at random: servers and gateways die, freeze, hand over; sessions are cut and cancelled."""

import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import children, send

RESTART_SECONDS = 120
STORM_SECONDS = 4
# Longer than any outage may last: the others must do without the one that hangs.
HANG_SECONDS = 75
# Longer than a lease: another server takes over, without what was only on the lost one.
LOST_SECONDS = 35
LEADER = ("SELECT s.replica FROM countersign.coord c JOIN countersign.stream s"
          " ON s.tenant = c.tenant AND s.instance = c.leader AND c.leader <> ''")
TERMINATE = ("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
             " WHERE application_name = 'countersign' AND pid <> pg_backend_pid()")
CANCEL = ("SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
          " WHERE application_name = 'countersign' AND wait_event = 'SyncRep'")

IN_TRANSACTION = ("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'countersign'"
                  " AND state = 'idle in transaction' AND state_change < now() - interval '0.25 s'")
TRIES = 80


@dataclass
class Fault:
    number: int
    kind: str
    detail: str
    began: float


class Faults:
    """Does one fault after the other; what it broke comes back by itself, while the next may begin."""

    def __init__(self, cluster, gateways, seed, only=None):
        self.cluster, self.gateways, self.only = cluster, gateways, only
        self.dice, self.done, self.violations = random.Random(seed), [], []
        self.threads, self.away, self.lock = [], set(), threading.Lock()
        self.cancelled = self.terminated = 0

    def kinds(self):
        """The faults that are possible now: two gateways always serve."""
        database = [self.kill_primary, self.kill_server_only, self.freeze_primary, self.hang_primary,
                    self.switchover, self.terminate_sessions, self.cancel_commits, self.cancel_commits_and_kill]
        gateway = [self.kill_gateway, self.freeze_gateway, self.freeze_log_leader, self.freeze_in_transaction]
        possible = database if self.away else database + gateway
        return [kind for kind in possible if kind.__name__ in self.only] if self.only else possible

    def run(self, number):
        """Does one fault. Each kind comes once before any comes again."""
        while not self.kinds():
            time.sleep(0.5)
        counts = {kind: sum(f.kind == kind.__name__ for f in self.done) for kind in self.kinds()}
        fewest = min(counts.values())
        kind = self.dice.choice([kind for kind, count in counts.items() if count == fewest])
        if not self.cluster.wait_healthy():
            self.violations.append(f"the servers did not heal before fault {number}")
            return None
        fault = Fault(number, kind.__name__, "", time.monotonic())
        self.done.append(fault)
        kind(fault)
        return fault

    def later(self, seconds, work, away=None):
        if away:
            self.away.add(away)

        def run():
            time.sleep(seconds)
            try:
                work()
            except Exception as error:  # A thread's end would go unnoticed.
                self.violations.append(f"the harness could not undo a fault: {error!r}")
            finally:
                self.away.discard(away)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def heal(self):
        for thread in self.threads:
            thread.join(RESTART_SECONDS + 60)

    # ---- servers ----
    def primary(self, fault):
        node = self.cluster.primary()
        if node is None:
            raise OSError("there is no primary")
        fault.detail = node.name
        return node

    def kill_primary(self, fault):
        node, seconds = self.primary(fault), self.dice.uniform(1, 40)
        fault.detail += f" for {seconds:.0f} s"
        node.kill()
        self.later(seconds, node.start)

    def kill_server_only(self, fault):
        """Its Patroni lives, and starts it again or lets another take over."""
        node = self.primary(fault)
        postmaster = node.postmaster()
        send([postmaster, *children(postmaster)], signal.SIGKILL)

    def freeze_primary(self, fault):
        node, seconds = self.primary(fault), self.dice.uniform(5, 30)
        fault.detail += f" for {seconds:.0f} s"
        node.pause()
        self.later(seconds, node.resume)
        time.sleep(seconds)

    def hang_primary(self, fault):
        """Its connections stay open, and say nothing, for longer than the failover takes."""
        node = self.primary(fault)
        fault.detail += f" for {HANG_SECONDS} s"
        node.pause()
        self.later(HANG_SECONDS, node.resume)
        time.sleep(HANG_SECONDS / 2)

    def switchover(self, fault):
        try:
            fault.detail = "{} to {}".format(*self.cluster.switchover())
        except (OSError, KeyError) as error:
            fault.detail = f"refused: {error}"

    def storm(self, node, sql):
        """Cancels or terminates again and again; gives how often."""
        count, until = 0, time.monotonic() + STORM_SECONDS
        while time.monotonic() < until:
            try:
                count += int(node.sql(sql)[0][0])
            except OSError:
                pass
            time.sleep(0.1)
        return count

    def terminate_sessions(self, fault):
        node = self.primary(fault)
        count = self.storm(node, TERMINATE)
        self.terminated += count
        fault.detail += f", {count} sessions"

    def receivers(self):
        """The processes by which standbys get what they confirm."""
        found = []
        for node in self.cluster.nodes:
            for pid in children(node.postmaster() or -1):
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                except OSError:
                    continue
                if b"walreceiver" in command:
                    found.append(pid)
        return found

    def cancel_commits(self, fault):
        """Commits wait, since no standby confirms; cancelling the wait ends it with a warning."""
        node, receivers = self.primary(fault), self.receivers()
        send(receivers, signal.SIGSTOP)
        try:
            count = self.storm(node, CANCEL)
        finally:
            send(receivers, signal.SIGCONT)
        self.cancelled += count
        fault.detail += f", {count} commits"

    def cancel_commits_and_kill(self, fault):
        """What was cancelled is on one server only, and that one is lost before any standby has it."""
        node, receivers = self.primary(fault), self.receivers()
        send(receivers, signal.SIGSTOP)
        try:
            count = self.storm(node, CANCEL)
            node.kill()
        finally:
            send(receivers, signal.SIGCONT)
        self.cancelled += count
        fault.detail += f", {count} commits"
        self.later(LOST_SECONDS, node.start)

    # ---- gateways ----
    def kill_gateway(self, fault, gateway=None):
        gateway = gateway or self.dice.choice(self.gateways)
        fault.detail = gateway.name
        gateway.kill()

        def restart():
            if not gateway.start(RESTART_SECONDS):
                self.violations.append(f"{gateway.name} did not start again after fault {fault.number}")

        self.later(self.dice.uniform(0, 5), restart, gateway.name)

    def freeze(self, fault, gateway):
        seconds = self.dice.uniform(10, 40)
        fault.detail = f"{gateway.name} for {seconds:.0f} s"
        gateway.pause()
        self.later(seconds, gateway.resume, gateway.name)

    def freeze_in_transaction(self, fault):
        """Freezes a gateway when it has a transaction open, and with it locks."""
        gateway = self.dice.choice(self.gateways)
        for _ in range(TRIES):
            gateway.pause()
            time.sleep(0.3)
            rows = self.cluster.sql(IN_TRANSACTION)
            if rows and rows[0] != ["0"]:
                break
            gateway.resume()
            time.sleep(self.dice.uniform(0.05, 0.2))
        fault.detail = f"{gateway.name} for {HANG_SECONDS} s" if gateway.frozen else "never in one"
        if gateway.frozen:
            self.later(HANG_SECONDS, gateway.resume, gateway.name)

    def freeze_gateway(self, fault):
        self.freeze(fault, self.dice.choice(self.gateways))

    def freeze_log_leader(self, fault):
        rows = self.cluster.sql(LEADER)
        leaders = [gateway for gateway in self.gateways if rows and [gateway.name] in rows]
        self.freeze(fault, leaders[0] if leaders else self.dice.choice(self.gateways))
