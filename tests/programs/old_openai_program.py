"""A program written for openai 0.28: module level settings, chunks as dictionaries.

python old_openai_program.py BASE_URL MODEL PROMPT
"""

import sys

import openai

openai.api_base = sys.argv[1]
openai.api_key = "any"

answer = openai.ChatCompletion.create(
    model=sys.argv[2],
    messages=[{"role": "user", "content": sys.argv[3]}],
    stream=True,
)
try:
    for chunk in answer:
        text = chunk["choices"][0]["delta"].get("content", "")
        if text:
            print(text, end="", flush=True)
except openai.error.OpenAIError as error:
    print(f"[{type(error).__name__}: {error}]", end="")
