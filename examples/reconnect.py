"""Streams that survive their connection.

    python examples/reconnect.py Count to a hundred.

With ``resumable=True`` the server continues the generation when the connection is lost, and the
loop reconnects automatically.  Another process can resume the stream too: it needs only the
stream's id and the number of the last event received, which this program writes to a file
after every piece.  Interrupt it with Ctrl-C and start it again:

    python examples/reconnect.py --continue
"""

import json
import os
import sys
from pathlib import Path

from choreoai import ChoreoAI, StreamInterruptedError

STATE = Path(os.environ.get("STATE", "reconnect.json"))

client = ChoreoAI(resumable=True)

if sys.argv[1:] == ["--continue"]:
    if not STATE.exists():
        sys.exit("there is no answer to continue")
    state = json.loads(STATE.read_text())
    print(state["text"], end="", flush=True)
    stream = client.chat.completions.resume(state["id"], after=state["after"])
else:
    state = {"text": ""}
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Count to a hundred."}],
        stream=True,
    )

try:
    for text in stream.text:
        print(text, end="", flush=True)
        state = {"id": stream.id, "after": stream.last_event_id, "text": state["text"] + text}
        STATE.write_text(json.dumps(state))
    print()
    STATE.unlink()
except KeyboardInterrupt:
    print("\n[the server continues; --continue shows the rest]")
except StreamInterruptedError as error:
    print(f"\n[cannot be resumed: {error}]")
    sys.exit(1)
finally:
    client.close()
