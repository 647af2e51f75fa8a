"""The table of results: samples in, medians, ratios and goals out; as text, as Markdown and as JSON."""
import statistics

OURS = "pmxfs"
MORE_IS_BETTER = ("MB/s", "IOPS", "entries/s", "files/s")


class Goal:
    """What a row should come to. Against a peer (the named one, or the best where it was not measured), the row's
    limit, another of our rows, or a fixed figure: at least times it, or at most, as the unit has it."""

    def __init__(self, times=1.0, peer=None, limit=False, row=None, value=None, plus=0.0):
        self.times, self.peer, self.limit, self.row, self.value, self.plus = times, peer, limit, row, value, plus

    def bound(self, table, key, medians):
        """The figure to reach, and where it comes from; None where nothing was measured to compare with."""
        row = medians[key]
        if self.value is not None:
            return self.value, ""
        if self.limit:
            base, name = row.get("limit"), "limit"
        elif self.row:
            found = [m for (area, what, _), m in medians.items() if what == self.row]
            base, name = (found[0].get(OURS) if found else None), self.row
        else:
            peers = peers_of(row)
            name = self.peer if self.peer in peers else best(peers, key[2])
            base = peers.get(name)
        if base is None:
            return None, ""
        return base * self.times + self.plus, name


def peers_of(row):
    return {t: v for t, v in row.items() if t not in (OURS, "limit")}


def best(peers, unit):
    """The name of the best of the peers, or None."""
    return (max if unit in MORE_IS_BETTER else min)(peers, key=peers.get) if peers else None


class Table:
    """Rows of (area, what, unit), each with a list of samples per tool; "limit" is what the machine does at best."""

    def __init__(self):
        self.rows, self.goals, self.cut, self.failures = {}, {}, set(), []

    def add(self, area, what, unit, tool, value, goal=None, cut=False):
        """Adds a sample. One that was cut short is a bound: the tool would have taken longer."""
        key = (area, what, unit)
        self.rows.setdefault(key, {}).setdefault(tool, []).append(value)
        if goal:
            self.goals[key] = goal
        if cut:
            self.cut.add((key, tool))

    def copy_peers(self, area, what, to, unit, to_area=None):
        """Sets the peers' samples of one row beside ours in another that asks the same of them."""
        key = (to_area or area, to, unit)
        source = (area, what, unit)
        if key in self.rows and source in self.rows:
            self.rows[key].update({t: list(v) for t, v in peers_of(self.rows[source]).items()})

    def fail(self, area, tool, error):
        line = " ".join(f"{area}, {tool}: {error}".split())
        if line not in self.failures:
            self.failures.append(line)

    def medians(self):
        return {k: {t: statistics.median(v) for t, v in row.items()} for k, row in self.rows.items()}

    def lines(self):
        """One tuple per row: area, what, ours, best peer, ratio to it, limit, ratio to it, goal, verdict."""
        medians = self.medians()
        out = []
        for key, row in medians.items():
            area, what, unit = key
            ours, limit, peers = row.get(OURS), row.get("limit"), peers_of(row)
            name = best(peers, unit)
            goal, verdict = "", ""
            if key in self.goals and ours is not None:
                bound, source = self.goals[key].bound(self, key, medians)
                if bound is not None:
                    more = unit in MORE_IS_BETTER
                    goal = f"{'>=' if more else '<='} {fmt(bound)}" + (f" ({fmt(self.goals[key].times)} x {source})" if source and not self.goals[key].plus else "")
                    verdict = "met" if (ours >= bound if more else ours <= bound) else "MISSED"
                else:
                    g = self.goals[key]
                    goal = f"{fmt(g.times)} x {'limit' if g.limit else g.row or g.peer or 'best peer'}"
            out.append((area, f"{what}, {unit}", self.mark(key, OURS) + fmt(ours),
                        f"{name} {self.mark(key, name)}{fmt(peers[name])}" if name else "-", ratio(ours, peers.get(name)),
                        fmt(limit), ratio(ours, limit), goal, verdict))
        return out

    def mark(self, key, tool):
        return ">" if (key, tool) in self.cut else ""

    def missed(self):
        return [line for line in self.lines() if line[-1] == "MISSED"]

    HEAD = ("area", "what", OURS, "best peer", "x peer", "limit", "x limit", "goal", "")

    def text(self):
        rows = [self.HEAD] + self.lines()
        widths = [max(len(r[i]) for r in rows) for i in range(len(self.HEAD))]
        out = ["  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows]
        return "\n".join(out + [f"failed: {f}" for f in self.failures])

    def markdown(self, tools):
        """Two tables: ours against the best peer and the limit, and every tool by itself."""
        out = ["| " + " | ".join(self.HEAD) + " |", "|" + "---|" * len(self.HEAD)]
        out += ["| " + " | ".join(line) + " |" for line in self.lines()]
        cols = [OURS] + [t for t in tools if t != OURS] + ["limit"]
        out += ["", "Every tool by itself:", "", "| area | what | " + " | ".join(cols) + " |", "|" + "---|" * (len(cols) + 2)]
        for key, row in self.medians().items():
            if peers_of(row):
                out.append(f"| {key[0]} | {key[1]}, {key[2]} | " + " | ".join(self.mark(key, t) + fmt(row.get(t)) for t in cols) + " |")
        if self.cut:
            out += ["", "`>`: stopped at the time limit; it would have taken longer."]
        if self.failures:
            out += ["", "Not measured:", ""] + [f"- {f}" for f in self.failures]
        return "\n".join(out)

    def data(self):
        goals = {(line[0], line[1]): line[-2:] for line in self.lines()}
        out = []
        for (area, what, unit), m in self.medians().items():
            goal, verdict = goals[area, f"{what}, {unit}"]
            out.append({"area": area, "what": what, "unit": unit, "medians": m, "samples": self.rows[area, what, unit], "goal": goal, "verdict": verdict})
        return out


def ratio(a, b):
    return f"{a / b:.2f}" if a is not None and b else "-"


def fmt(v):
    """A figure with about three digits that mean something."""
    if v is None:
        return "-"
    if v == 0:
        return "0"
    return f"{v:.3f}" if abs(v) < 1 else f"{v:.1f}" if abs(v) < 100 else f"{v:,.0f}"
