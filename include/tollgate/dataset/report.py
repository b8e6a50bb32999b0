"""The report of a version as one HTML page, in Korean and English, that needs nothing but itself.

It shows what ``report.json`` holds: sums and results of all gates (:class:`tollgate.gates.results.StageResult`),
statistics, and under ``version`` the manifest. What is missing is left out, and a gate that has no section of its own
still shows what it found, so that reports of other releases of Tollgate can be shown too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson

from tollgate.dataset import charts
from tollgate.dataset.report_texts import check_words, words
from tollgate.dataset.schema import SPLITS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

REPORT_PAGE = "report.html"
"""Name of the page in a version's folder, beside ``report.json``."""

_MOST_BARS = 14
_SCORE_OF = {"toxic": "toxicity", "biased": "bias", "low_quality": "quality"}  # by the reason that a row goes for
_MOST_SAMPLES = 8
_TICKS = 6
_SECTIONS = ("ingest", "personal_data", "duplicates", "quality", "contamination", "split", "contract")
Values = Mapping[str, Any]


def render(report: Values) -> str:
    """Make the page.

    Args:
        report: What ``report.json`` holds.

    Returns:
        An HTML document in UTF-8 with its style, charts and both languages inside.
    """
    return page_environment().get_template("report.html.j2").render(page=_page(report), words=words)


@cache
def page_environment(package: str = "tollgate.dataset") -> Environment:
    """Templates of a package's pages; all pages share this room's skeleton, style sheet and macros.

    Args:
        package: Where its folder ``templates`` lies.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

    packages = dict.fromkeys((package, "tollgate.dataset"))
    return Environment(
        loader=ChoiceLoader([PackageLoader(one, "templates") for one in packages]),
        autoescape=select_autoescape(["html", "j2"], default_for_string=True, default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _page(report: Values) -> dict[str, Any]:
    stages = {stage["stage"]: stage for stage in report.get("stages", ())}
    statistics = report.get("statistics") or {}
    version = report.get("version") or {}
    settings = report.get("settings") or version.get("gate_settings") or {}
    lengths = _lengths(statistics.get("histograms") or {})
    return {
        "reference": f"{version['name']}@v{version['version']}" if version else str(report.get("name", "")),
        "facts": _facts(version),
        "tiles": _tiles(report, version),
        "road": _road(report.get("stages", ())),
        "ingest": _ingest(stages.get("ingest"), version),
        "personal_data": _personal_data(stages.get("personal_data")),
        "duplicates": _duplicates(stages.get("duplicates")),
        "quality": _quality(stages.get("quality"), settings),
        "contamination": _contamination(stages.get("contamination"), stages.get("ingest")),
        "others": [_other(stage) for name, stage in stages.items() if name not in _SECTIONS],
        "contents": _contents(statistics),
        "lengths": lengths,
        "tokens_counted": any(one["name"] == "tokens" for one in lengths),
        "contract": _contract(stages.get("contract")),
        "settings": [{"name": name, "value": orjson.dumps(value).decode()} for name, value in sorted(settings.items())],
    }


def _facts(version: Values) -> list[dict[str, Any]]:
    if not version:
        return []
    facts = [
        {"key": "written", "value": f"{str(version['created_at'])[:16].replace('T', ' ')} UTC", "mono": False},
        {"key": "content_hash", "value": version["content_hash"][:16], "mono": True},
        {"key": "code_version", "value": version["code_version"], "mono": False},
    ]
    if version.get("parent"):
        facts.insert(1, {"key": "parent", "value": version["parent"], "mono": False})
    return facts


def _tiles(report: Values, version: Values) -> list[dict[str, str]]:
    if "rows_in" not in report:
        return []
    out = report["quarantined"] + sum(report["dropped"].values())
    tiles = [
        {"key": "rows_in", "value": f"{report['rows_in']:,}"},
        {"key": "rows_kept", "value": f"{report['rows_kept']:,}"},
        {"key": "rows_out", "value": f"{out:,}"},
        {"key": "pieces_masked", "value": f"{sum(report['masked'].values()):,}"},
    ]
    if version.get("quality_score") is not None:
        tiles.append({"key": "mean_quality", "value": f"{version['quality_score']:.3f}"})
    return tiles


def _road(stages: Sequence[Values]) -> list[dict[str, Any]]:
    """Each gate against the rows of the whole source, so that the bars can be compared."""
    total = max((stage["rows_in"] for stage in stages), default=0)
    steps = []
    for stage in stages:
        taken = stage["rows_in"] - stage["rows_kept"]
        reasons = [{"name": name, "count": count} for name, count in _by_count(_taken(stage))]
        steps.append(
            {
                "stage": stage["stage"],
                "rows_kept": stage["rows_kept"],
                "taken": taken,
                "kept_share": _percent(stage["rows_kept"], total),
                "taken_share": _percent(taken, total),
                "reasons": reasons,
            }
        )
    return steps


def _taken(stage: Values) -> dict[str, int]:
    taken = {name: count for name, count in stage["dropped"].items() if count}
    return {**taken, "quarantined": stage["quarantined"]} if stage["quarantined"] else taken


def _ingest(stage: Values | None, version: Values) -> dict[str, Any] | None:
    if stage is None:
        return None
    found = stage["details"].get("source")
    sources = version.get("sources") or ([found] if found else [])
    return {
        "sources": [{**source, "size": _size(source["size"])} for source in sources],
        "problems": stage["details"].get("problems", []),
        "quarantined": stage["quarantined"],
    }


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _personal_data(stage: Values | None) -> dict[str, Any] | None:
    if stage is None:
        return None
    details = stage["details"]
    found = details.get("found") or stage["masked"]
    samples = [
        {"kind": kind, **sample}
        for kind, group in (details.get("samples") or {}).items()
        for sample in group[:_MOST_SAMPLES]
        if sample.get("excerpt")
    ]
    return {"kinds": _bars(found), "rows": details.get("rows_with_personal_data", 0), "samples": samples}


def _duplicates(stage: Values | None) -> dict[str, Any] | None:
    if stage is None:
        return None
    details = stage["details"]
    keys = ("clusters", "largest_cluster", "conflicting_questions")
    return {
        "found": _bars(details.get("found") or stage["dropped"]),
        "facts": [{"key": key, "value": f"{details[key]:,}"} for key in keys if key in details],
        "clusters": _clusters(details.get("samples", [])),
        "conflicts": details.get("conflicts", [])[:_MOST_SAMPLES],
        "earlier": details.get("earlier_samples", [])[:_MOST_SAMPLES],
    }


def _clusters(samples: Iterable[Values]) -> list[dict[str, Any]]:
    """Pairs of a row and the row kept instead, gathered by the row kept."""
    clusters: dict[int, dict[str, Any]] = {}
    for sample in samples:
        new = {"line": sample["kept_line"], "text": sample["kept_text"], "rows": []}
        cluster = clusters.setdefault(sample["kept_line"], new)
        cluster["rows"].append({name: sample[name] for name in ("line", "text", "jaccard")})
    return list(clusters.values())[:_MOST_SAMPLES]


def _quality(stage: Values | None, settings: Values) -> dict[str, Any] | None:
    if stage is None:
        return None
    details = stage["details"]
    parts = [
        {"name": name, "literal": False, "share": _percent(value, 1), "shown": f"{value:.3f}"}
        for name, value in (details.get("parts") or {}).items()
    ]
    samples = [
        {
            "line": sample["line"],
            "reason": sample["reason"],
            "score": sample[_SCORE_OF[sample["reason"]]],
            "text": sample.get("text"),
            "parts": sample.get("parts"),
        }
        for sample in details.get("samples", [])
    ]
    histograms = [
        {"name": name, "chart": _score_chart(name, details[name], settings.get(threshold), taken_above=above)}
        for name, threshold, above in (
            ("histogram", "min_quality", False),
            ("toxicity_histogram", "max_toxicity", True),
        )
        if details.get(name)
    ]
    return {"charts": histograms, "parts": parts, "samples": samples}


def _score_chart(name: str, counts: Sequence[int], threshold: float | None, *, taken_above: bool) -> Markup:
    """Scores from 0 to 1 in bins of equal width; those on the wrong side of the threshold in another colour."""
    bins = len(counts)
    line = None if threshold is None else threshold * bins
    columns = []
    for place, count in enumerate(counts):
        wrong = line is not None and (place >= line - 1e-9 if taken_above else place + 1 <= line + 1e-9)
        columns.append(charts.Bar(count, f"{place / bins:g}–{(place + 1) / bins:g}: {count:,}", muted=wrong))
    ticks = [(bins * share / 10, f"{share / 10:g}") for share in range(0, 11, 2)]
    return charts.bars(columns, ticks, marker=line, label=words(name).en)


def _contamination(stage: Values | None, ingested: Values | None) -> dict[str, Any] | None:
    if stage is None:
        return None
    tests = ingested["details"].get("tests", []) if ingested else []
    details = stage["details"]
    samples = [
        {
            "line": sample.get("line", 0),
            "test": sample.get("test", ""),
            "kind": sample.get("kind", ""),
            "overlap": f"{sample['overlap']:.2f}" if "overlap" in sample else "",
            "text": sample.get("text", ""),
        }
        for sample in details.get("samples", [])[:_MOST_SAMPLES]
    ]
    return {"found": _bars(details.get("found") or stage["dropped"]), "samples": samples, "tests": tests}


def _other(stage: Values) -> dict[str, Any]:
    return {"stage": stage["stage"], "found": _bars(stage["details"].get("found") or stage["dropped"])}


def _contents(statistics: Values) -> dict[str, Any] | None:
    rows = statistics.get("rows")
    if not rows:
        return None
    total = sum(rows.values())
    return {
        "parts": [{"name": part, "rows": rows[part], "share": _percent(rows[part], total)} for part in SPLITS],
        "turns": _bars(statistics.get("turns", {}), literal=True),
        "categories": _categories(statistics.get("categories", {})),
        "sources": _bars(statistics.get("sources", {}), literal=True),
    }


def _categories(by_part: Values) -> list[dict[str, Any]]:
    totals: dict[str, int] = {}
    for counts in by_part.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    ordered = [name for name, _ in _by_count(totals)]
    shown, rest = ordered[:_MOST_BARS], ordered[_MOST_BARS:]
    groups = [(name or "uncategorised", bool(name), [name]) for name in shown]
    groups += [("others", False, rest)] if rest else []
    most = max((sum(totals[name] for name in members) for _, _, members in groups), default=0)
    entries = []
    for title, literal, members in groups:
        parts = [(part, sum(by_part.get(part, {}).get(name, 0) for name in members)) for part in SPLITS]
        entries.append(
            {
                "name": title,
                "literal": literal,
                "rows": sum(count for _, count in parts),
                "parts": [{"name": part, "rows": count, "share": _percent(count, most)} for part, count in parts],
            }
        )
    return entries


def _lengths(histograms: Values) -> list[dict[str, Any]]:
    names = ("question_characters", "answer_characters", "tokens")
    found = [(name, histograms.get(name)) for name in names]
    return [
        {
            "name": name,
            "chart": _length_chart(name, one),
            "median": one["median"],
            "most": one["most"],
            "beyond": one["beyond"],
            "sampled": one.get("sampled"),
            "tokenizer": one.get("tokenizer"),
        }
        for name, one in found
        if one and one["counts"]
    ]


def _length_chart(name: str, one: Values) -> Markup:
    counts, width = one["counts"], one["width"]
    last = len(counts) - 1
    columns = []
    for place, count in enumerate(counts):
        end = "" if place == last and one["beyond"] else f"{(place + 1) * width - 1:,}"
        columns.append(charts.Bar(count, f"{place * width:,}–{end}: {count:,}"))
    every = max(1, round(len(counts) / _TICKS))
    ticks = [(float(place), f"{place * width:,}") for place in range(0, len(counts) + 1, every)]
    return charts.bars(columns, ticks, label=words(name).en)


def _contract(stage: Values | None) -> dict[str, Any] | None:
    if stage is None or "checks" not in stage["details"]:
        return None
    checks = [
        {"words": check_words(check["name"], check["column"]), "passed": check["passed"], "observed": check["observed"]}
        for check in stage["details"]["checks"]
    ]
    met = sum(check["passed"] for check in checks)
    return {"passed": stage["details"]["passed"], "met": met, "checks": checks}


def _bars(counts: Mapping[str, int], literal: bool = False) -> list[dict[str, Any]]:
    """Counts as bars, the greatest first; what is beyond the most bars that a chart may have becomes one."""
    ordered = [(name, count) for name, count in _by_count(counts) if count]
    entries = [(name or "none", literal and bool(name), count) for name, count in ordered[:_MOST_BARS]]
    if rest := ordered[_MOST_BARS:]:
        entries.append(("others", False, sum(count for _, count in rest)))
    most = max((count for _, _, count in entries), default=0)
    return [
        {"name": name, "literal": itself, "share": _percent(count, most), "shown": f"{count:,}"}
        for name, itself, count in entries
    ]


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _percent(value: float, total: float) -> float:
    return round(100 * value / total, 2) if total else 0.0
