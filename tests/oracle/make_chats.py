"""What Transformers makes of conversations with the chat templates in FIXTURES/chat/*.jinja (all written for these tests).

    python3 make_chats.py FIXTURES

FIXTURES/chat/golden.json: "conversations" (keyword arguments of `apply_chat_template` by name) and "cases", one a template and
conversation: "text" or "error" (the message of the exception), and "spans", the bytes that generation blocks wrote, where there are any.
The clock stands at 2024-07-26 09:05:03. Proves CT-02 to CT-08, CT-12, CT-13, CT-15, CT-16.
"""
import datetime
import json
import sys
from pathlib import Path

import transformers
from transformers.utils import chat_template_utils as chats


class Stopped(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 9, 5, 3)


chats.datetime = Stopped
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, id="abcdefghi"):
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather at a place, \"now\" & <later>.", "parameters": {
    "type": "object", "properties": {
        "city": {"type": "string", "description": "Name of the city, e.g. Köln"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": "integer", "default": 3}, "items": {"type": "array", "items": {"type": "number"}}},
    "required": ["city"]}}}
CLOCK = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
LONG = [say("system", "Be kind."), say("user", "What is a tapir?  "), say("assistant", "\nAn animal.\n"), say("user", "Where?"), say("assistant", "In Asia & America.")]
CONVERSATIONS = {
    "user": dict(messages=[say("user", "What is 2 plus 2?")], add_generation_prompt=True),
    "system": dict(messages=[say("system", "You answer in one word."), say("user", " Name a colour: naïve 😀? ")], add_generation_prompt=True),
    "long": dict(messages=LONG),
    "long-prompt": dict(messages=LONG[:4], add_generation_prompt=True, enable_thinking=False, reasoning_effort="high"),
    "continue": dict(messages=[say("user", "Write a poem."), say("assistant", "Roses are ")], continue_final_message=True),
    "wrong-roles": dict(messages=[say("user", "a"), say("user", "b"), say("narrator", "c")]),
    "tools": dict(messages=[say("user", "How is the weather in Köln?"),
                            say("assistant", None, tool_calls=[call("get_weather", {"city": "Köln", "days": 2, "exact": True, "x": None})]),
                            say("tool", "{\"t\": 21.5}", name="get_weather", tool_call_id="abcdefghi"),
                            say("assistant", "21.5 degrees."), say("user", "Thanks!")],
                  tools=[WEATHER, CLOCK], add_generation_prompt=True),
    "tool-first": dict(messages=[say("developer", "Call."), say("user", "Time?")], tools=[CLOCK], add_generation_prompt=True),
    "thinking": dict(messages=[say("user", "Hard one."), say("assistant", "<think>\nhmm\n</think>\n\n42", reasoning_content="let me see"), say("user", "Sure?"),
                               say("assistant", "<think>\nagain\n</think>\nyes")]),
    "parts": dict(messages=[say("user", [{"type": "text", "text": " What is this? "}, {"type": "image"}])], add_generation_prompt=True),
    "documents": dict(messages=[say("user", "Which is taller?"), say("assistant", "")], documents=[{"title": "Towers", "text": "A is 3 m."}, {"title": "Hills", "text": "B's 40."}]),
}


def render(template, options):
    options = dict(options)
    messages = [{k: v for k, v in m.items() if v is not None} for m in options.pop("messages")]
    flags = {k: options.pop(k) for k in ("tools", "documents", "add_generation_prompt", "continue_final_message") if k in options}
    spans = "generation" in template and not flags.get("continue_final_message")
    try:
        texts, indices = chats.render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=spans, **flags, **SPECIAL, **options)
    except Exception as e:
        return {"error": str(e), "raised": type(e).__name__ == "TemplateError"}
    text = texts[0]
    case = {"text": text}
    if spans and indices[0]:
        case["spans"] = [[len(text[:a].encode()), len(text[:b].encode())] for a, b in indices[0]]
    return case


def main(fixtures):
    folder = Path(fixtures) / "chat"
    cases = []
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_bytes().decode()
        for name, options in CONVERSATIONS.items():
            cases.append({"template": path.stem, "conversation": name, **render(template, options)})
    golden = {"transformers": transformers.__version__, "special": SPECIAL, "conversations": CONVERSATIONS, "cases": cases}
    (folder / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
    print(len(cases), sum("error" in c for c in cases))
    for c in cases:
        if "error" in c and not c["raised"]:
            print(c["template"], c["conversation"], c["error"][:110])


main(sys.argv[1])
