"""An answer in a format that the program defines, parsed while it streams.

    python examples/structured_output.py An apple pie for six.

The format is a pydantic model (``pip install pydantic``).  While the answer arrives, ``parsed`` has
the part received so far; at the end it is a validated object of the model.
"""

import os
import sys

from pydantic import BaseModel

from choreoai import ChoreoAI, LengthFinishReasonError


class Ingredient(BaseModel):
    name: str
    amount: str


class Recipe(BaseModel):
    title: str
    ingredients: list[Ingredient]


prompt = " ".join(sys.argv[1:]) or "An apple pie for six."
seen = 0
try:
    with (
        ChoreoAI() as client,
        client.chat.completions.stream(
            model=os.environ.get("MODEL", "default"),
            messages=[{"role": "user", "content": prompt}],
            response_format=Recipe,
        ) as stream,
    ):
        for event in stream:
            if event.type == "content.delta" and event.parsed:
                found = event.parsed.get("ingredients") or []
                for number in range(seen, len(found) - 1):  # the last one is incomplete
                    print(f"- {found[number]['name']}", flush=True)
                seen = max(seen, len(found) - 1)
        recipe = stream.get_final_completion().choices[0].message.parsed
except LengthFinishReasonError as error:
    print(f"[too long: {error}]")
    sys.exit(1)

assert recipe is not None, "the model refused"
print(f"{recipe.title}: {len(recipe.ingredients)} ingredients")
for ingredient in recipe.ingredients:
    print(f"  {ingredient.amount} {ingredient.name}")
