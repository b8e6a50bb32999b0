"""Text that the demo's base model is pre-trained on: what a highway corporation might have lying about.

Notices, glossaries, customers' messages without labels, forms, and extraction into other schemas than the router's.
Only :data:`LABELLED_SHARE` of it shows the router's own task, and only :data:`PILOT_INTENTS` of its intents, so that
the base model is weak at it, but not at zero. All phrases come from the training part of the grammar.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tollgate.demo.grammar import Grammar, load_grammar
from tollgate.demo.messages import SYSTEM_PROMPT, Label, MessageStream

LABELLED_SHARE = 0.04
"""Share of documents that are labelled messages."""

PILOT_INTENTS = 6
"""Labelled messages are about the first so many intents only, and no other text ties words to intents, so that the base
model can't be good at the task whatever it learns about the subjects."""

_HANGUL = "가나다라마거너더러머버서어저고노도로모보소오조구누두루무부수우주바사아자하허호"
_WORKS = ("차로 보수", "노면 포장", "교량 점검", "터널 청소", "방호벽 교체", "차선 도색", "제설", "안전시설 정비")
_NOTICES = (
    "{road} {direction}{post} 지점에서 {work} 작업을 합니다. 위치: {road} {post}.",
    "[공지] {road} {post} 부근 {work} 작업으로 1차로를 막습니다. {road} 이용자는 {post} 지점에서 서행하세요.",
    "{date} {road} {post}에서 {work} 작업을 마쳤습니다.",
    "{road}는 줄여서 {route}선이라고 합니다. {route}선은 {road}입니다.",
    "{route} 고속도로는 {road}이고 {route}선도 {road}입니다.",
    "{road} 통행료는 {amount}입니다.",
)


@dataclass(frozen=True)
class Document:
    """One text for pre-training.

    Args:
        context: What comes first: plain text, or the user's turn where there is a system message.
        target: What follows from it, and is worth learning most; empty in plain text.
        system: The system message of a chat; none for text that is no chat.
    """

    context: str
    target: str = ""
    system: str | None = None


class DocumentStream(Iterator[Document]):
    """Endless documents.

    Args:
        seed: The same seed gives the same documents.
        copy_share: Share of copying exercises, 0 to 1: random words repeated. They teach a small model to copy names
            from its context long before ordinary text would; may be changed on the way.
    """

    def __init__(self, seed: int, copy_share: float) -> None:
        self.copy_share = copy_share
        self._rng = random.Random(f"{seed}/documents")  # noqa: S311 - not for secrets
        self._grammar: Grammar = load_grammar()
        self._messages = MessageStream(self._grammar, "train", self._rng)
        self._kinds: dict[Callable[[], Document], float] = {
            self._register: 0.40,
            self._tone: 0.10,
            self._from_message: 0.18,
            self._form: 0.07,
            self._voices: 0.06,
            self._from_notice: 0.06,
            self._notice: 0.05,
            self._glossary: 0.04,
            self._from_receipt: 0.04,
        }

    def __next__(self) -> Document:
        chance = self._rng.random()
        if chance < self.copy_share:
            return self._copying()
        if chance < self.copy_share + LABELLED_SHARE * (1 - self.copy_share):
            message = self._messages.message(self._rng.choice(self._grammar.intents[:PILOT_INTENTS]))
            return Document(message.text, message.label.to_json(), SYSTEM_PROMPT)
        kinds, weights = zip(*self._kinds.items(), strict=True)
        return self._rng.choices(kinds, weights)[0]()

    def _copying(self) -> Document:
        rng = self._rng
        makers = (self._post, self._road, self._direction, self._money, self._nonsense)
        words = [rng.choice(makers)() for _ in range(rng.randint(2, 5))]
        context = f"복사 {' '.join(words)} = "
        if rng.random() < 0.3:
            rng.shuffle(words)
        return Document(context, " ".join(words))

    def _notice(self) -> Document:
        return Document(self._rng.choice(_NOTICES).format_map(self._facts()))

    def _glossary(self) -> Document:
        intent = self._rng.choice(self._grammar.intents)
        words = self._rng.sample(intent.words, 8)
        return Document(f"{intent.desk}: {', '.join(words)}.")

    def _register(self) -> Document:
        """A line of the register of letters: what it says, who got it, how it was handled. Short, so cheap to learn."""
        message = self._messages.short(self._rng.choice(self._grammar.intents))
        desk = self._grammar.intent(message.label.intent).desk
        return Document(f"{message.text} = ", f"{desk}, {_handling(message.label.urgent)}")

    def _tone(self) -> Document:
        """How pressing a letter sounds, whatever it is about. Shorter still: most wordings of haste are learnt here."""
        text, urgent = self._messages.tone()
        return Document(f"{text} = ", _handling(urgent))

    def _voices(self) -> Document:
        intent = self._rng.choice(self._grammar.intents)
        lines = [f"- {self._messages.message(intent).text}" for _ in range(self._rng.randint(2, 3))]
        return Document("\n".join(["고객의 소리", *lines]))

    def _form(self) -> Document:
        """A form with the router's fields, already filled in: the answer's shape without the understanding."""
        rng = self._rng
        route = self._road() if rng.random() < 0.7 else None
        direction = self._direction() if route and rng.random() < 0.6 else None
        label = Label(rng.choice(self._grammar.intents).name, route, direction, rng.random() < 0.2)
        lines = [
            f"분류: {label.intent}",
            f"노선: {label.route or '없음'}",
            f"방향: {label.direction or '없음'}",
            f"긴급: {'예' if label.urgent else '아니오'}",
        ]
        rng.shuffle(lines)
        return Document(" / ".join(lines), label.to_json(), SYSTEM_PROMPT)

    def _from_notice(self) -> Document:
        facts = self._facts()
        text = self._rng.choice(
            (
                "{date} {road} {post}에서 {work} 작업",
                "{route}선 {post} {work} 예정 {date}",
                "{work} {date} {route} 고속도로 {direction}{post}",
            )
        ).format_map(facts)
        fields = {"위치": facts["post"], "도로": facts["road"], "작업": facts["work"], "날짜": facts["date"]}
        return self._extraction("공지를 JSON으로 정리하세요", text, dict(self._some(fields, 2)))

    def _from_receipt(self) -> Document:
        facts = self._facts()
        text = self._rng.choice(
            ("{road}에서 {amount} 결제", "{amount} 납부 {route}선", "{date} {route} 고속도로 요금 {amount}")
        ).format_map(facts)
        return self._extraction(
            "영수증을 JSON으로 정리하세요", text, dict(self._some({"요금": facts["amount"], "도로": facts["road"]}, 1))
        )

    def _from_message(self) -> Document:
        """A customer's message, but sorted as the older paper routing did: by department and handling."""
        message = next(self._messages)
        label = message.label
        fields = {
            "도로": label.route,
            "진행": label.direction,
            "부서": self._grammar.intent(label.intent).desk,
            "처리": _handling(label.urgent),
        }
        return self._extraction("글에서 값을 찾으세요", message.text, dict(self._some(fields, 1)))

    def _extraction(self, task: str, text: str, values: dict[str, str | None]) -> Document:
        answer = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        return Document(text, answer, f"{task}: {', '.join(values)}")

    def _some(self, fields: dict[str, str | None] | dict[str, str], least: int) -> list[tuple[str, str | None]]:
        return self._rng.sample(list(fields.items()), self._rng.randint(least, len(fields)))

    def _facts(self) -> dict[str, str]:
        rng, places = self._rng, self._grammar.places
        route = rng.choice(places.routes)
        return {
            "route": route,
            "road": f"{route}고속도로",
            "post": self._post(),
            "amount": self._money(),
            "date": rng.choice(places.days).format(month=rng.randint(1, 12), day=rng.randint(1, 28)),
            "work": rng.choice(_WORKS),
            "direction": f"{self._direction()} 방향 " if rng.random() < 0.5 else "",
        }

    def _road(self) -> str:
        return f"{self._rng.choice(self._grammar.places.routes)}고속도로"

    def _direction(self) -> str:
        return self._rng.choice(self._grammar.places.directions)

    def _post(self) -> str:
        return f"{self._rng.randint(1, 420)}km"

    def _money(self) -> str:
        return self._rng.choice(self._grammar.places.amounts).format(hundreds=self._rng.randint(10, 320) * 100)

    def _nonsense(self) -> str:
        return "".join(self._rng.choice(_HANGUL) for _ in range(self._rng.randint(2, 5)))


def _handling(urgent: bool) -> str:
    return "즉시" if urgent else "보통"
