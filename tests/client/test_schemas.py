"""The schemas that the client sends for pydantic models are those of the openai package."""

from __future__ import annotations

import enum
from typing import Any, Literal, Optional, Union

import openai
import pydantic
import pytest
from pydantic import BaseModel, Field

import choreoai


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class City(BaseModel):
    """A city."""

    name: str
    people: int = Field(1, description="how many")


class Annotated(BaseModel):
    """References with other members beside them."""

    city: City = Field(description="where")
    color: Color = Field(Color.RED, description="which")


class Optionals(BaseModel):
    number: Optional[int] = None  # noqa: UP045
    either: Union[int, str, None] = Field(None, title="One")
    city: Optional[City] = None  # noqa: UP045


class Lists(BaseModel):
    many: list[City]
    mixed: list[Union[City, Annotated]]
    letter: Literal["a", "b"] = "a"
    pair: tuple[int, str]
    anything: Any = None


class Tree(BaseModel):
    value: int
    children: list[Tree] = []
    left: Optional[Tree] = Field(None, description="the left one")  # noqa: UP045


class Combined(BaseModel):
    one: Any = Field(None, json_schema_extra={"allOf": [{"type": "string"}]})
    two: Any = Field(json_schema_extra={"allOf": [{"type": "string"}, {"minLength": 1}]})


class NoExtras(BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


@pytest.mark.parametrize("model", [City, Annotated, Optionals, Lists, Tree, Combined, NoExtras])
def test_function_tool_equals_openais(model: type[BaseModel]) -> None:
    assert choreoai.pydantic_function_tool(model) == openai.pydantic_function_tool(model)
    named = {"name": "n", "description": ""}
    assert choreoai.pydantic_function_tool(model, **named) == openai.pydantic_function_tool(
        model, **named
    )
