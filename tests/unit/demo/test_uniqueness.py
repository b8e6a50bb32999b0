import random

from tollgate.demo.uniqueness import NearDuplicateIndex, jaccard, shingles


def test_the_index_agrees_with_comparing_every_pair():
    rng = random.Random(3)
    base = ["".join(rng.choices("가나다라", k=rng.randint(3, 30))) for _ in range(60)]
    texts = base + [text[: rng.randint(0, len(text))] + "마" + text[rng.randint(0, len(text)) :] for text in base * 3]
    for sample in ([], texts[:50]):
        index = NearDuplicateIndex(0.6, sample)
        kept: list[str] = []
        for text in texts:
            unlike_all = all(jaccard(shingles(text), shingles(other)) < 0.6 for other in kept)
            assert index.add(text) == unlike_all
            kept += [text] if unlike_all else []
        assert 60 < len(kept) < len(texts)
