"""Programs that attack what is around them. Each prints HARM where it succeeds.

`{folder}` is a folder of the test with a file `secret` that says `expected output`; `{pid}` is a process of the test that
sleeps; `{port}` is a port on which the test listens, `{socket}` the name of an abstract socket.
"""

_LIBC = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
_CALL = _LIBC + "if libc.syscall({call}) >= 0: print('HARM')"

ATTACKS = {
    "read a file": "print('HARM', open('{folder}/secret').read())",
    "read through a symlink": "import os; os.symlink('{folder}/secret', 'link'); print('HARM', open('link').read())",
    "read through a symlink to the root": "import os; os.symlink('/', 'root'); print('HARM', open('root{folder}/secret').read())",
    "find expected output on disk": """
import os
for folder, _, files in os.walk('/'):
    if 'secret' in files and not folder.startswith(('/proc', '/usr', '/sys')):
        print('HARM', open(os.path.join(folder, 'secret')).read())
""",
    "write a file": "open('{folder}/new', 'w').write('x'); print('HARM')",
    "overwrite a file": "open('{folder}/secret', 'w').write('x'); print('HARM')",
    "overwrite through a symlink": "import os; os.symlink('{folder}/secret', 'link'); open('link', 'w').write('x'); print('HARM')",
    "write to the root": "open('/aipo-attack', 'w'); print('HARM'); import os; os.remove('/aipo-attack')",
    "write to the devices": "open('/dev/aipo-attack', 'w'); print('HARM'); import os; os.remove('/dev/aipo-attack')",
    "write into Python's own folder": """
import os
path = os.path.join(os.path.dirname(os.__file__), 'aipo_attack.py')
open(path, 'w'); print('HARM'); os.remove(path)
""",
    "change permissions": "import os; os.chmod('{folder}/secret', 0o777); print('HARM')",
    "read our environment": """
import os
if 'AIPO_ATTACKED' in os.environ: print('HARM')
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        if b'AIPO_ATTACKED=' in open('/proc/' + pid + '/environ', 'rb').read(): print('HARM')
    except OSError: pass
""",
    "look at our processes": "import os; os.path.exists('/proc/{pid}/cmdline') and b'sleep' in open('/proc/{pid}/cmdline', 'rb').read() and print('HARM')",
    "kill our process": "import os; os.kill({pid}, 9); print('HARM')",
    "kill the parent": "import os; os.getppid() > 0 and print('HARM')",
    "attach a debugger": _LIBC + "if libc.ptrace(16, {pid}, 0, 0) == 0: print('HARM')",
    "trace itself": _LIBC + "if libc.ptrace(0, 0, 0, 0) == 0: print('HARM')",
    "connect to a port": "import socket; socket.create_connection(('127.0.0.1', {port}), 1); print('HARM')",
    "connect to an abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect('\\0{socket}'); print('HARM')",
    "find a network": "import socket; [name for _, name in socket.if_nameindex() if name != 'lo'] and print('HARM')",
    "find open descriptors": """
import os
for descriptor in range(3, 256):
    try: os.fstat(descriptor)
    except OSError: continue
    print('HARM', descriptor)
""",
    "raise its limits": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9999, 9999)); print('HARM')",
    "raise the limit of processes": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999)); print('HARM')",
    "become root": "import os; os.setresuid(0, 0, 0); print('HARM')",
    "mount a file system": _LIBC + "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: print('HARM')",
    "make the system writable": _LIBC
    + "if libc.mount(None, b'/usr', None, 32 | 4096, None) == 0: print('HARM')",
    "make a user namespace": _LIBC + "if libc.unshare(0x10000000) == 0: print('HARM')",
    "make a user namespace by clone": _CALL.replace(
        "{call}", "56 if os.uname().machine == 'x86_64' else 220, 0x10000000 | 17, 0, 0, 0, 0"
    ),
    "make a device": "import os, stat; os.mknod('memory', stat.S_IFCHR | 0o600, os.makedev(1, 1)); print('HARM')",
    "change its root": "import os; os.chroot('.'); print('HARM')",
    "change a kernel setting": "open('/proc/sys/kernel/core_pattern', 'r+').write('core'); print('HARM')",
    "open the terminal": "open('/dev/tty'); print('HARM')",
    "memory that no limit counts": "import os; os.memfd_create('x'); print('HARM')",
    "shared memory that no limit counts": _LIBC + "if libc.shmget(0, 4096, 0o1600) >= 0: print('HARM')",
    "reach the kernel by io_uring": _CALL.replace("{call}", "425, 1, ctypes.create_string_buffer(120)"),
    "read another process's memory": _LIBC
    + """
buffer = ctypes.create_string_buffer(8)
vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
if libc.process_vm_readv(os.getpid(), vector, 1, vector, 1, 0) == 8: print('HARM')
""",
}
"""By what they try."""

WITHOUT_WALLS = (
    "read a file",
    "read through a symlink",
    "read through a symlink to the root",
    "write a file",
    "overwrite a file",
    "overwrite through a symlink",
    "look at our processes",
    "kill our process",
    "kill the parent",
    "connect to a port",
    "connect to an abstract socket",
    "memory that no limit counts",
    "shared memory that no limit counts",
    "trace itself",
    "read another process's memory",
)
"""Those that succeed without isolation, for any user, and leave the machine as it is."""
