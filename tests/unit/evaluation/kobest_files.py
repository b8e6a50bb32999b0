"""A KoBEST of a few short rows, in the files that it is published in."""

from __future__ import annotations

from pathlib import Path

ROWS = {
    "BoolQ": [
        "ID\tText\tQuestion\tAnswer",
        '1\t"콜라"는 음료다.\t음료인가?\tTrue',
        "2\t물이다.\t술인가?\tFalse",
        "3\t{{물}}이다.\t물인가?\tTrue",
    ],
    "COPA": [
        "ID\tsentence\tquestion\t1\t2\tAnswer",
        "1\t비가 왔다.\t결과\t예예예예.\t말랐다.\t1",
        "2\t젖었다.\t원인\t맑았다.\t예예예\t1",
    ],
    "HellaSwag": ["context\tchoice1\tchoice2\tchoice3\tchoice4\tlabel", "비가 온다.\t가나\t다라\t예예\t마바\t2"],
    "SentiNeg": ["ID\tLabel_origin\tText_origin\tLabel\tText\tCategory_neg", "1\t1\t좋음\t0\t안 좋음\t1"],
    "WiC": ["ID\tTarget\tSENTENCE1\tSENTENCE2\tANSWER", "1\t철\t[철]에 핀다.\t[철]이 무겁다.\tFalse"],
}


def write_kobest(folder: Path) -> Path:
    """A folder for each task, with its test part."""
    for name, lines in ROWS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "test.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder
