"""What JMeter's results (CSV, a line a request) say of a run, as thresholds: JMeter itself has none.

An arrival is a thread of its own, numbered in the order in which they are due; so it can be told from the results which ones never
came, and by how much each was late for JMeter's own sake.
"""

import csv
import dataclasses
import re

# Requests that get a run ready, or that wait by design: the threshold on times is not theirs.
APART = ("warm-up", "holder", "holder's claim", "wait")
BEFOREHAND = ("warm-up", "holders")
SHOWN = 5


@dataclasses.dataclass
class Arrivals:
    """Those of a thread group: parts of a constant rate (a second) for some seconds, one after the other."""

    group: str
    parts: list

    def count(self):
        return sum(int(rate * seconds) for rate, seconds in self.parts)

    def due(self, number):
        """Seconds from the group's start to its arrival of that number, the first being 1."""
        start, before = 0.0, number - 1
        for rate, seconds in self.parts:
            if before < int(rate * seconds):
                return start + before / rate
            start, before = start + seconds, before - int(rate * seconds)
        raise ValueError(f"{self.group} has no arrival {number}")


def percentile(values, q):
    """The smallest value that q of them don't exceed. Of all values, not of buckets."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * q // 100) - 1)] if ordered else None


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["start"], row["elapsed"] = int(row["timeStamp"]), int(row["elapsed"])
        row["right"] = row["success"] == "true"
    return rows


def first_starts(rows, group):
    """{number of the arrival: when its first request began, in milliseconds}."""
    starts = {}
    for row in rows:
        found = re.fullmatch(rf"{re.escape(group)} \d+-(\d+)", row["threadName"])
        if found:
            number = int(found[1])
            starts[number] = min(row["start"], starts.get(number, row["start"]))
    return starts


def lateness(starts, arrivals):
    """By how many milliseconds each arrival began later than the most punctual one would have it."""
    offsets = [start - arrivals.due(number) * 1000 for number, start in starts.items()]
    return [offset - min(offsets) for offset in offsets]


def answer(row):
    """The status, and the claim's own or the problem's slug where there is one."""
    return row["responseCode"] if row["outcome"] in ("-", "", None) else f"{row['responseCode']} {row['outcome']}"


def table(rows):
    """A line a kind of request, and what they were answered."""
    print(f"\n{'request':<16}{'count':>8}{'wrong':>7}{'p50':>8}{'p99':>8}{'max':>8}  ms, and answers")
    for label in sorted({row["label"] for row in rows}):
        own = [row for row in rows if row["label"] == label]
        times, answers = [row["elapsed"] for row in own], {}
        for row in own:
            answers[answer(row)] = answers.get(answer(row), 0) + 1
        said = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items()))
        wrong = sum(not row["right"] for row in own)
        print(f"{label:<16}{len(own):>8}{wrong:>7}{percentile(times, 50):>8}{percentile(times, 99):>8}{max(times):>8}  {said}")


def judge(rows, groups, values):
    """Prints what was measured; gives what is wrong: answers, arrivals that never came or came late, times."""
    table(rows)
    wrong = [row for row in rows if not row["right"]]
    faults = [f"unexpected: {row['label']}: {answer(row)}: {row['failureMessage'][:200] or row['responseMessage']}" for row in wrong]
    if len(faults) > SHOWN:
        faults = [*faults[:SHOWN], f"… and {len(faults) - SHOWN} more unexpected answers"]
    late = []
    for arrivals in groups:
        starts = first_starts(rows, arrivals.group)
        if len(starts) < arrivals.count():
            faults.append(f"{arrivals.group}: {arrivals.count() - len(starts)} of {arrivals.count()} arrivals never began")
        if values["ARRIVALS"] == "even" and starts and arrivals.group not in BEFOREHAND:
            late += lateness(starts, arrivals)
    if late:
        worst = percentile(late, 99)
        print(f"\narrivals: {len(late)}; late by JMeter's own doing: p99 {worst:.0f} ms, at most {max(late):.0f} ms")
        if worst > values["LATE_MS"]:
            expected = f"expected at most LATE_MS={values['LATE_MS']}"
            faults.append(f"arrivals were late: p99 {worst:.0f} ms, {expected}: the rate was not really offered")
    measured = [row["elapsed"] for row in rows if row["right"] and row["label"] not in APART]
    if not measured:
        faults.append("not a single right answer")
    elif percentile(measured, 99) > values["P99_MS"]:
        faults.append(f"the p99 of right answers is {percentile(measured, 99)} ms, expected at most P99_MS={values['P99_MS']}")
    return faults


def judge_opening(rows, opens_at, values):
    """What is wrong with claims around the opening instant (milliseconds since 1970)."""
    faults = []
    claims = [row for row in rows if row["label"] == "claim"]
    early = [row for row in claims if row["outcome"] == "accepted" and row["start"] + row["elapsed"] < opens_at - values["SKEW_MS"]]
    closed = [row for row in claims if row["outcome"] == "not-open" and row["start"] > opens_at + values["SKEW_MS"]]
    if early:
        faults.append(f"{len(early)} claims were accepted before the opening, the first {opens_at - early[0]['start']} ms before it")
    if closed:
        faults.append(f"{len(closed)} claims were told not-open after the opening, the last {closed[-1]['start'] - opens_at} ms after it")
    if not any(row["start"] < opens_at for row in claims):
        faults.append("no claim came before the opening: JMeter was not ready in time")
    if not any(row["start"] > opens_at for row in claims):
        faults.append("no claim came after the opening")
    return faults
