/* Lets User-Mode Linux run on processors whose XSAVE area is larger than the one it knows.

   Its kernel hands ptrace the vector registers as 2,696 bytes, which is all there was before AMX
   (11,008 bytes). The host's kernel refuses to set fewer bytes than the processor has, and UML
   panics with "ptrace set fp regs failed, errno = 14". Preloaded, this pads the area with the
   state "never used". Nothing inside UML uses AMX. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif
/* Intel's manual, volume 1, 13.4.2: the header, whose first word says which parts are in use. */
#define XSTATE_BV 512
#define AMX ((uint64_t)3 << 17)

static size_t area_size(void)
{
    static size_t size;
    unsigned a, b = 0, c, d;

    if (size == 0) {
        __cpuid_count(0xd, 0, a, b, c, d);
        size = b;
    }
    return size;
}

static long set_padded(pid_t pid, void *type, const struct iovec *given)
{
    static _Thread_local uint8_t area[65536];
    struct iovec whole = {area, area_size()};
    uint64_t used;

    if (whole.iov_len > sizeof area) {
        errno = ENOSPC;
        return -1;
    }
    memset(area, 0, whole.iov_len);
    memcpy(area, given->iov_base, given->iov_len);
    memcpy(&used, area + XSTATE_BV, sizeof used);
    used &= ~AMX;
    memcpy(area + XSTATE_BV, &used, sizeof used);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, type, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    pid_t pid;
    void *address, *data;
    long peeked, result;

    va_start(arguments, request);
    pid = va_arg(arguments, pid_t);
    address = va_arg(arguments, void *);
    data = va_arg(arguments, void *);
    va_end(arguments);

    if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE) {
        const struct iovec *given = data;
        if (given->iov_len > XSTATE_BV + sizeof(uint64_t) && given->iov_len < area_size())
            return set_padded(pid, address, given);
    }
    /* The system call stores what it peeked; glibc's function returns it. */
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        result = syscall(SYS_ptrace, request, pid, address, &peeked);
        if (result < 0)
            return result;
        errno = 0;
        return peeked;
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
