from typing import get_args

from tollgate.demo.messages import SIZES
from tollgate.demo.recipe import ADAPTERS, BASE_MODEL, ROWS, AdapterRecipe, Candidate
from tollgate.training.parsing import parse_spec


def test_every_candidates_recipe_makes_a_valid_specification(tmp_path):
    assert set(ADAPTERS) == set(get_args(Candidate))
    for candidate, recipe in ADAPTERS.items():
        spec = parse_spec(
            {
                "job_name": f"demo-{candidate}",
                "base_model": str(tmp_path),
                "dataset": str(tmp_path),
                "dataset_reference": "demo@v1",
                "output": str(tmp_path),
                **recipe.model_dump(),
            }
        )
        assert spec.model_dump(include=set(AdapterRecipe.model_fields)) == recipe.model_dump()
        assert spec.max_length <= BASE_MODEL.context


def test_the_first_candidate_learns_from_less():
    assert ROWS["first"] is not None
    assert SIZES["train"] > ROWS["first"]
