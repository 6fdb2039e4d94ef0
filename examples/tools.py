"""Functions that the model may call, while the answer streams.

    python examples/tools.py What time is it in Tokyo?

A call arrives in pieces, its arguments as JSON text.  The loop joins the pieces, runs the requested
functions, and sends the results to the model until it answers with text.  The demo model of
``make run`` cannot call tools: set MODEL to one that can.
"""

import json
import os
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

from choreoai import ChoreoAI


def tell_time(zone: str) -> str:
    return datetime.now(ZoneInfo(zone)).strftime("%H:%M")


FUNCTIONS = {"tell_time": tell_time}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tell_time",
            "description": "Tell the time in a time zone, for example Asia/Tokyo.",
            "parameters": {
                "type": "object",
                "properties": {"zone": {"type": "string"}},
                "required": ["zone"],
            },
        },
    }
]


def run(name: str, arguments: str) -> str:
    """Return the result of the function, or its error: the model can try again."""
    try:
        return FUNCTIONS[name](**json.loads(arguments or "{}"))
    except Exception as error:
        return f"error: {error!r}"


prompt = " ".join(sys.argv[1:]) or "What time is it in Tokyo?"
messages: list = [{"role": "user", "content": prompt}]

with ChoreoAI() as client:
    while True:
        stream = client.chat.completions.create(
            model=os.environ.get("MODEL", "default"), messages=messages, tools=TOOLS, stream=True
        )
        for text in stream.text:
            print(text, end="", flush=True)
        message = stream.get_final_completion().choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = run(call.function.name or "", call.function.arguments or "")
            print(f"[{call.function.name} {call.function.arguments}: {result}]")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
print()
