"""The parameters of k6/run and jmeter/run, as loadtest/parameters.json lists them: read, held against what is expected, explained.

They are given as NAME=VALUE behind the scenario, or in the environment; the former win. A name that isn't known, or isn't the
scenario's, is refused there. The environment has many names that are others', so those can't be.
"""

import difflib
import json
import os
import pathlib
import re
import secrets
import time

KNOWN = json.loads(pathlib.Path(__file__).with_name("parameters.json").read_text())
SCENARIOS = {
    "opening": "claims that come too early, then all at once at the instant of the opening",
    "steady": "a steady sale: claims at a constant rate",
    "carts": "changes of carts, and reads that must show them",
    "status": "polling of claims with ETags, and long polls for one's own",
    "mixed": "claims, retries, carts, polling and the campaign's page",
}
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
RUN_LENGTH = 30  # a buyer's name has at most 64 characters, and more than the run's name in it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@|+=-]{0,63}")


class Refused(Exception):
    """A parameter that can't be used: its name, its value, and what was expected."""


def refuse(name, value, expected):
    shown = "(not shown)" if KNOWN[name]["kind"] == "secret" else json.dumps(value)
    raise Refused(f"{name} is {shown}, expected {expected}")


def within(name, value, number):
    known = KNOWN[name]
    if number is None or not known["min"] <= number <= known["max"]:
        kind = "a whole number" if known["kind"] == "number" else "a duration such as 500ms, 30s or 5m,"
        unit = "s" if known["kind"] == "duration" else ""
        refuse(name, value, f"{kind} from {known['min']}{unit} to {known['max']}{unit}")
    return number


def number(name, value):
    return within(name, value, int(value) if re.fullmatch(r"[0-9]{1,12}", value) else None)


def duration(name, value):
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)", value)
    seconds = float(found[1]) * UNITS[found[2]] if found else None
    return within(name, value, int(seconds) if seconds is not None and seconds == int(seconds) else seconds)


def url(name, value):
    if value and not re.fullmatch(r"https?://[^/?#\s]+/?", value):
        refuse(name, value, "http://host[:port] or https://host[:port]")
    return value.rstrip("/")


def choice(name, value):
    if value not in KNOWN[name]["choices"]:
        refuse(name, value, "one of " + ", ".join(KNOWN[name]["choices"]))
    return value


def name_of_something(name, value):
    if value and not NAME.fullmatch(value):
        refuse(name, value, "a letter or a digit and up to 63 of A-Z a-z 0-9 . _ : @ | + = -")
    if name == "RUN" and len(value) > RUN_LENGTH:
        refuse(name, value, f"at most {RUN_LENGTH} characters")
    return value


def slugs(name, value):
    found = [slug for slug in value.split(",") if slug]
    if not all(re.fullmatch(r"[a-z]+(-[a-z]+)*", slug) for slug in found):
        refuse(name, value, "slugs of problems, separated by commas, such as rate-limited,overloaded")
    return found


def secret(name, value):
    if not re.fullmatch(r"[!-~]*", value):
        refuse(name, value, "visible ASCII without spaces")
    return value


READERS = {
    "number": number,
    "duration": duration,
    "url": url,
    "choice": choice,
    "name": name_of_something,
    "slugs": slugs,
    "secret": secret,
    "text": lambda _name, value: value,
}


def belongs(name, tool, scenario):
    known = KNOWN[name]
    return known.get("tool", tool) == tool and scenario in known.get("only", [scenario])


def names(tool, scenario):
    """What can be given here; a secret may also be the name of a file."""
    for name, known in KNOWN.items():
        if belongs(name, tool, scenario):
            yield name
            if known["kind"] == "secret":
                yield f"{name}_FILE"


def given(tool, scenario, arguments):
    allowed = list(names(tool, scenario))
    values = {name: os.environ[name] for name in allowed if os.environ.get(name)}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise Refused(f"{argument!r} was not understood, expected NAME=VALUE")
        if name in KNOWN and name not in allowed:
            raise Refused(f"{name} is no parameter of {scenario} with {tool}")
        if name not in allowed:
            near = difflib.get_close_matches(name.upper(), allowed, 1)
            raise Refused(f"{name} is no parameter" + (f": is {near[0]} meant?" if near else f", expected one of {', '.join(allowed)}"))
        values[name] = value
    return values


def from_files(values):
    for name in [name for name in values if name.endswith("_FILE")]:
        path = values.pop(name)
        plain = name.removesuffix("_FILE")
        if plain in values:
            raise Refused(f"{plain} and {name} are both given, expected one of them")
        try:
            values[plain] = pathlib.Path(path).read_text().strip()
        except OSError as e:
            raise Refused(f"{name} is {json.dumps(path)}, expected a file that can be read: {e.strerror}") from e


def explain(tool, program):
    """The text of --help."""
    lines = [f"{program} [SCENARIO] [NAME=VALUE ...]", "", "Scenarios (steady unless given):"]
    lines += [f"  {name:<12} {what}" for name, what in SCENARIOS.items()]
    lines += ["", "Parameters, here or in the environment:"]
    for name, known in KNOWN.items():
        if known.get("tool", tool) == tool:
            default = f" [{known['default']}]" if known["default"] not in ("", 0) else ""
            only = f" ({', '.join(known['only'])})" if "only" in known else ""
            lines.append(f"  {name:<12} {known['what']}{default}{only}")
    return "\n".join(lines)


def read(tool, arguments):
    """(scenario, {name: value}) of a command line; `Refused` says what is wrong with it."""
    scenario, arguments = (arguments[0], arguments[1:]) if arguments and "=" not in arguments[0] else ("steady", arguments)
    if scenario not in SCENARIOS:
        raise Refused(f"{scenario!r} is no scenario, expected one of {', '.join(SCENARIOS)}")
    texts = given(tool, scenario, arguments)
    from_files(texts)
    values = {}
    for name, known in KNOWN.items():
        if belongs(name, tool, scenario):
            values[name] = READERS[known["kind"]](name, texts.get(name) or str(known["default"]))
    if not values["URL"]:
        for name in ["ADMIN_URL", "ADMIN_TOKEN", "TOKEN", "CAMPAIGN"]:
            if values[name]:
                raise Refused(f"{name} is given without URL: the server that is started here has its own")
    elif not values["CAMPAIGN"] and not values["ADMIN_URL"]:
        raise Refused("neither CAMPAIGN nor ADMIN_URL is given with URL: name a campaign, or where one can be made")
    elif values["AUTH"] != "open" or values["BINARY"]:
        raise Refused("AUTH and BINARY are about the server that is started here; with URL give TOKEN")
    values["RUN"] = values["RUN"] or f"{int(time.time()):x}-{secrets.token_hex(2)}"
    return scenario, values
