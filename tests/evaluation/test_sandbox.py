"""Attacks on the sandbox, each with what it would have done outside."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from s2l_ray.evaluation import sandbox
from s2l_ray.evaluation.sandbox import Ran, check_sandbox, run_programs

# The module os and others, in spite of the limit on imports: what follows must hold without it.
AROUND = """
loader = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close"][0]
os = loader.__init__.__globals__["sys"].modules["os"]
get = os.sys.modules.get
def tried(what, *args):
    try:
        return what(*args)
    except BaseException as error:
        return type(error).__name__
"""

FAILS = {
    "import os": "error",
    "from socket import socket": "error",
    "__import__('os').system('id')": "error",
    "open('/etc/passwd').read()": "error",
    "raise SystemError": "error",
    "1 +": "error",
    "print('a' * 1_000_000)": "output",
    "while True: print('a' * 1000)": "memory",
    "x = bytearray(4_000_000_000)": "memory",
    "x = [0]\nwhile True: x = x * 2": "memory",
    "try:\n  while True: pass\nexcept BaseException:\n  pass\nwhile True: pass": "time",
    "x = 9 ** 9 ** 9": "time",
    "def f(): f()\nf()": "error",
    AROUND + "os._exit(3)": "error",
    AROUND + "get('ctypes').string_at(0)": "error",
    AROUND + "os.close(1)\nwhile True: pass": "time",
}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    monkeypatch.setattr(sandbox, "MEMORY", 2**26)


def test_a_program_that_fails_or_does_harm_has_no_result(short):
    """One batch, and an honest program at its end: none of them harms what comes after it."""
    ran = run_programs([*FAILS, "print(6 * 7)"])
    assert dict(zip(FAILS, [each.why for each in ran], strict=False)) == FAILS
    assert ran[-1] == Ran("42\n")


def test_a_program_that_waits_is_ended(monkeypatch):
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 1)
    assert run_programs([AROUND + "get('time').sleep(100)"]) == [Ran("", "time")]


def test_a_program_that_would_keep_a_right_is_not_run(monkeypatch, tmp_path):
    """Limits cannot be set here. The program has not failed: it is not run, and that is said."""
    code = sandbox.INSIDE.read_text()
    assert '"RLIMIT_{name}"' in code
    (tmp_path / "sandboxed.py").write_text(code.replace('"RLIMIT_{name}"', '"NO_LIMIT_{name}"'))
    monkeypatch.setattr(sandbox, "INSIDE", tmp_path / "sandboxed.py")
    with pytest.raises(ValueError, match="could not give up its rights"):
        run_programs(["print(1)"])


def said(code):
    [ran] = run_programs([AROUND + code])
    assert ran.why is None
    return ran.output.splitlines()


def test_there_is_no_file_to_read_or_to_write(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    lines = said(
        f"for path in ['/etc/passwd', {str(secret)!r}, '/proc/self/environ', '/dev/null']:\n"
        "    print(tried(os.open, path, 0))\n"
        "for path in ['/new', '/tmp/new', 'new', os.__file__]:\n"
        "    print(tried(os.open, path, os.O_CREAT | os.O_WRONLY))\n"
        "print(tried(os.mkdir, '/new'), tried(os.unlink, os.__file__))\n"
        "print(tried(os.chroot, '..'), tried(os.listdir, '/proc'), sorted(os.environ))\n"
        "print([n for n in range(3, 100) if tried(os.fstat, n) != 'OSError'])"
    )
    assert lines[:4] == ["FileNotFoundError"] * 4
    assert not {"3", "4", "5"} & set(lines[4:8]) and len(lines) == 11
    assert lines[8] == "OSError OSError"
    environment = ["LC_CTYPE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONHASHSEED"]
    assert lines[9] == f"PermissionError FileNotFoundError {environment}"
    assert lines[10] == "[]"  # none of the caller's open files


def test_there_is_no_network_no_process_and_no_privilege():
    lines = said(
        "ctypes = get('ctypes')\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(tried(os.fork), tried(os.kill, os.getppid(), 9), os.getpid(), os.getppid())\n"
        "print([libc.unshare(flag) for flag in (0x10000000, 0x40000000, 0x20000)])\n"
        "print(libc.prctl(39, 0, 0, 0, 0))\n"  # PR_GET_NO_NEW_PRIVS
    )
    # The process is the first of its namespace: it has no parent there, and nobody beside it.
    assert lines[0].startswith("PermissionError ") and lines[0].endswith(" 1 0")
    assert lines[1] == "[-1, -1, -1]" and lines[2] == "1"


NUMBERS = {  # of system calls without a function in libc
    "x86_64": {"keyctl": 250, "io_uring_setup": 425, "bpf": 321, "userfaultfd": 323,
               "perf_event_open": 298, "add_key": 248, "request_key": 249, "clone3": 435},
    "aarch64": {"keyctl": 219, "io_uring_setup": 425, "bpf": 280, "userfaultfd": 282,
                "perf_event_open": 241, "add_key": 217, "request_key": 218, "clone3": 435},
}[os.uname().machine]  # fmt: skip


def test_the_kernel_denies_what_no_limit_or_namespace_holds():
    """Memory in System V segments is not counted, and AF_VSOCK reaches a virtual machine's host."""
    [line] = said(
        "ctypes = get('ctypes')\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "found = {}\n"
        "def call(name, function, *args):\n"
        "    ctypes.set_errno(0)\n"
        "    found[name] = function(*args), ctypes.get_errno()\n"
        "call('shmget', libc.shmget, 0, 2**20, 0o1600)\n"
        "call('semget', libc.semget, 0, 1, 0o1600)\n"
        "call('msgget', libc.msgget, 0, 0o1600)\n"
        "call('vmsplice', libc.vmsplice, 1, None, 0, 0)\n"
        "call('fork', libc.fork)\n"
        "for family in (1, 2, 16, 40):\n"  # unix, inet, netlink, vsock
        "    call(f'socket {family}', libc.socket, family, 1 if family < 3 else 2, 0)\n"
        "call('socketpair', libc.socketpair, 1, 1, 0, (ctypes.c_int * 2)())\n"
        f"for name, number in {NUMBERS}.items():\n"
        "    call(name, libc.syscall, number, 0, 0, 0, 0, 0)\n"
        f"if {os.uname().machine == 'x86_64'}:\n"
        "    call('x32 shmget', libc.syscall, 0x40000000 + 29, 0, 2**20, 0o1600)\n"
        "print({name: result for name, result in found.items() if result != (-1, 1)}, len(found))"
    )
    assert line.startswith("{} ") and int(line[3:]) >= 18  # all of them: EPERM


def test_a_machine_without_known_system_calls_runs_nothing(monkeypatch, tmp_path):
    code = sandbox.INSIDE.read_text().replace("os.uname().machine)", "'riscv64')")
    (tmp_path / "sandboxed.py").write_text(code)
    monkeypatch.setattr(sandbox, "INSIDE", tmp_path / "sandboxed.py")
    with pytest.raises(ValueError, match="its processor is riscv64, expected x86_64 or aarch64"):
        run_programs(["print(1)"])


def sandboxed(caller):
    """Wait for the processes of a sandbox: its server, a keeper and a program."""
    for _ in range(100):
        time.sleep(0.1)
        found = [each for each in psutil.Process(caller).children(recursive=True) if inside(each)]
        if len(found) == 3:
            return found  # each is the parent of the next
    raise TimeoutError("no program has started")


def inside(process):
    try:
        words = process.cmdline()
        return words[0] == sys.executable and words[-1] == str(sandbox.INSIDE)
    except (psutil.Error, IndexError):  # it has ended
        return False


def test_what_a_caller_that_is_killed_had_started_ends_too(tmp_path):
    code = AROUND + "get('time').sleep(8.765)"
    command = [sys.executable, "-c", f"from sandbox import *\nrun_programs([{code!r}] * 9)"]
    environment = {"PYTHONPATH": str(sandbox.INSIDE.parent), "TMPDIR": str(tmp_path)}
    caller = subprocess.Popen(command, env=os.environ | environment)
    started = sandboxed(caller.pid)
    caller.kill()
    caller.wait()
    assert not psutil.wait_procs(started, timeout=5)[1]
    assert not os.listdir(tmp_path)


def test_a_program_whose_keeper_is_killed_has_no_result():
    """As the kernel does if a container has no memory left."""
    sleeps = AROUND + "get('time').sleep(8.765)"
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(run_programs, [sleeps, "print(42)"])
        _, keeper, program = sandboxed(os.getpid())
        keeper.kill()
        assert ran.result() == [Ran("", "memory"), Ran("42\n")]
    assert not program.is_running()


def test_programs_that_do_not_end_in_time_are_no_fault_of_theirs(monkeypatch):
    monkeypatch.setattr(sandbox, "START_SECONDS", -sandbox.WALL_SECONDS - 0.5)
    with pytest.raises(ValueError, match=r"not ended after 0\.5 s.*the same command continues"):
        run_programs([AROUND + "get('time').sleep(8.765)"])


def test_without_namespaces_nothing_is_run(tmp_path):
    """A caller without capabilities, as root of a container is: namespaces are refused."""
    if os.geteuid() != 0:
        pytest.fail("this test runs as root: it gives its privileges up")
    ended = run_in("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("ValueError: evaluation.answer_with: a program that a model wrote runs")
    assert "Operation not permitted" in last and "answer_with: text" in last
    check_sandbox()


def test_root_without_cap_sys_admin_takes_a_user_namespace():
    """The kernel does not limit the processes of this user, since it is root outside."""
    fork = AROUND + "print(tried(os.fork), os.getuid(), tried(os.listdir, '/proc'))"
    code = f"check_sandbox()\nprint(*(each.output for each in run_programs([{fork!r}])))"
    ended = run_in("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", code=code)
    assert (ended.stdout, ended.stderr) == ("PermissionError 0 FileNotFoundError\n\n", "")


def run_in(*command, code="check_sandbox()"):
    """Run code of sandbox.py in a new process, which the command starts; return the process."""
    code = f"from sandbox import *\nimport sandbox\n{code}"
    environment = os.environ | {"PYTHONPATH": str(sandbox.INSIDE.parent)}
    return subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


def test_packages_may_lie_below_the_standard_library():
    """As they do without a virtual environment: in an image, or with conda."""
    below = f"{os.path.dirname(os.__file__)}/site-packages"
    packages = os.path.dirname(os.path.dirname(np.__file__))
    assert os.path.isdir(below) and below != packages
    mount = f'mount --bind "{packages}" "{below}" && exec "$@"'
    code = f"sys.path.insert(1, {below!r})\ncheck_sandbox()\nprint(sandbox._folder('numpy'))"
    ended = run_in("unshare", "--mount", "sh", "-c", mount, "sh", code=code)
    assert (ended.stdout, ended.stderr) == (f"{below}\n", "")


def test_the_callers_umask_does_not_matter():
    assert run_in("sh", "-c", 'umask 077 && exec "$@"', "sh").stderr == ""


def test_what_programs_need_is_there():
    ran = run_programs(
        [
            "import math\nfrom fractions import Fraction\nprint(math.comb(5, 2), Fraction(1, 3))",
            "from sympy import *\nx = symbols('x')\nprint(solve(x**2 - 4), integrate(1/(x**3+1)))",
            "import numpy as np\nprint(np.linalg.solve([[1., 1.], [1., -1.]], [3., 1.]))",
            "from datetime import datetime\nprint(datetime.strptime('2024-03-01', '%Y-%m-%d'))",
            "import random\nprint(random.random())\nans = 3",
            "ans = 6 * 7",
            "def main():\n    print('x')\nif __name__ == '__main__':\n    main()",
            "print(1)\nexit()",
            "print(2)\nquit(1)\nprint(3)",
            "raise SystemExit",
        ]
    )
    assert [each.why for each in ran] == [None] * 10
    outputs = [each.output for each in ran]
    assert outputs[0] == "10 1/3\n" and outputs[1].startswith("[-2, 2] log(x + 1)/3")
    assert outputs[2:4] == ["[2. 1.]\n", "2024-03-01 00:00:00\n"]
    assert outputs[4] == "0.8444218515250481\n"  # seeded: the answer is the same in each run
    assert outputs[5:] == ["42", "x\n", "1\n", "2\n", ""]
    assert run_programs([]) == []
