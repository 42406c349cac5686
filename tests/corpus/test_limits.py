"""Chat templates that never end, or take all memory."""

import resource
import sys
import threading
import time

import pytest
from support.chat_families import tokenizer_of

from s2l_ray.config import PromptConfig
from s2l_ray.corpus import limits, rendering
from s2l_ray.corpus.families import template_text
from s2l_ray.corpus.messages import conversation_of
from s2l_ray.corpus.rendering import Template
from s2l_ray.corpus.rows import Example
from s2l_ray.corpus.templates import TemplateRefuses
from s2l_ray.corpus.tokenization import encode

ASK = Example([{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}])
PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{% set ns = namespace(x='aaaaaaaaaaaa') %}{% for a in range(64) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    monkeypatch.setattr(limits, "EVERY", 0.02)
    monkeypatch.setattr(limits, "MEMORY", 2**27)
    monkeypatch.setattr(limits, "_late", 0)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    yield
    assert resource.getrlimit(resource.RLIMIT_DATA) == before and not limits._running


def rendered(text):
    return Template(text, tokenizer_of("qwen2_5")).render(conversation_of(ASK), 2).text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (FOREVER, "takes more than 0 s of CPU time for this example"),
        (FOREVER.replace("{% endfor %}", "x{% endfor %}", 1), "takes more than"),
        (DOUBLED, "takes more than"),
        ("{{ 'a' * 10**9 }}".replace("10**9", "1000000000"), "bytes of memory for this example"),
        ("{{ messages[0].content * 10000000000 }}", "takes more than 134,217,728 bytes of memory"),
        ("{{ 'a'|center(10000000000) }}", "takes more than 134,217,728 bytes of memory"),
        ("{{ '%9999999999d'|format(1) }}", "takes more than 134,217,728 bytes of memory"),
        ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "maximum recursion depth"),
        ("{{ 1 / 0 }}", "refuses the turns user, assistant: division by zero"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ raise_exception('no\x1b' * 10000) }}", "refuses the turns user, assistant: no"),
    ],
)
def test_a_template_that_takes_too_much_is_refused(template, reason):
    began = time.thread_time()
    with pytest.raises(TemplateRefuses) as caught:
        rendered(template)
    assert reason in str(caught.value) and len(str(caught.value)) < 400
    assert time.thread_time() - began < 2


def test_powers_are_refused_and_named_arguments_are_not():
    with pytest.raises(ValueError, match=r"uses the operator \*\*"):
        rendered("{% set x = 9 %}{{ (x ** 9) ** (x**8) }}")
    assert rendered("{{ dict(a=1, **{'b': 2}) }} ** {{ 2 * 3 }}") == "{'a': 1, 'b': 2} ** 6"
    for family in ("qwen3", "llama3", "deepseekv3", "gptoss"):
        rendering._refuse_powers(template_text(family))


def test_the_text_and_the_template_are_so_long(monkeypatch):
    monkeypatch.setattr(rendering, "CHARACTERS", 1000)
    assert len(rendered("{{ 'a' * 1000 }}")) == 1000
    with pytest.raises(TemplateRefuses, match="turns this example into 1,001 characters"):
        rendered("{{ 'a' * 1001 }}")
    with pytest.raises(ValueError, match="the chat template has 1,048,577 characters; expected"):
        rendered("a" * (2**20 + 1))


def test_an_example_that_takes_too_long_is_set_aside_and_a_fourth_ends_the_run():
    """Each turn is rendered quickly; the example has too many of them."""
    slow = "{% if messages[0].content == 'slow' %}" + FOREVER + "{% endif %}" + PLAIN
    tokenizer = tokenizer_of("qwen2_5", slow)
    prompt = PromptConfig(template="chat")
    late = Example([{"role": "user", "text": "slow"}, *ASK.turns[1:]])
    refused = {}
    rows = encode([ASK, late, ASK, late], prompt, tokenizer, refused=refused)
    assert [bool(row[0]) for row in rows] == [True, False, True, False]
    assert set(refused) == {1, 3} and "of CPU time for this example" in refused[1]
    with pytest.raises(ValueError, match=r"and has done so 4 times; set prompt.chat_template"):
        encode([late, late, late], prompt, tokenizer, refused=refused)


def test_all_renderings_of_an_example_share_its_time():
    # Without markers each answer is found by renderings of its own: the time grows as a square.
    turns = [turn for _ in range(4000) for turn in ASK.turns]
    tokenizer = tokenizer_of("qwen2_5", PLAIN)
    began = time.thread_time()
    with pytest.raises(TemplateRefuses, match="CPU time"):
        encode([Example(turns)], PromptConfig(template="chat"), tokenizer)
    assert time.thread_time() - began < 3


def test_threads_have_a_time_each_and_wait_without_using_it(monkeypatch):
    monkeypatch.setattr(limits, "MOST_LATE", 100)
    found = {}

    def work(name, function):
        try:
            found[name] = limits.bounded(function)
        except TemplateRefuses:
            found[name] = "refused"

    def spin():
        while True:
            pass

    threads = [
        threading.Thread(target=work, args=each)
        for each in (("spins", spin), ("waits", lambda: time.sleep(1) or "done"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"spins": "refused", "waits": "done"}


def test_an_interruption_never_comes_after_the_end(monkeypatch):
    """Work that takes about as long as is allowed, so that both ends meet."""
    monkeypatch.setattr(limits, "SECONDS", 0.002)
    monkeypatch.setattr(limits, "EVERY", 0.0001)
    monkeypatch.setattr(limits, "MOST_LATE", 10**6)
    ends = {"in time": 0, "late": 0}

    def work(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(200):
            try:
                limits.bounded(work, (0.0005, 0.0019, 0.002, 0.0021, 0.05)[number % 5])
                ends["in time"] += 1
            except TemplateRefuses:
                ends["late"] += 1
            sum(range(1000))
    finally:
        sys.setswitchinterval(before)
    assert sum(ends.values()) == 200 and ends["late"] and ends["in time"]


def test_what_a_template_itself_raises_is_no_end_of_time():
    def inner():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        limits.bounded(inner)
    assert limits.bounded(lambda a, b: a + b, 1, b=2) == 3
    assert limits.bounded(limits.bounded, lambda: 5) == 5
