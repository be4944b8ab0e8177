/* Makes fsync and fdatasync fail with EIO while the file named by CHAOS_FSYNC_TRIGGER exists.
 *
 * cc -shared -fPIC -O2 -o fsync_fails.so fsync_fails.c -ldl
 * CHAOS_FSYNC_TRIGGER=/tmp/eio LD_PRELOAD=./fsync_fails.so skyring run
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

typedef int (*sync_call)(int);

static int sync_or_fail(const char *name, int fd)
{
    const char *trigger = getenv("CHAOS_FSYNC_TRIGGER");
    sync_call real = (sync_call)dlsym(RTLD_NEXT, name);

    if (trigger != NULL && access(trigger, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    errno = 0;
    return real(fd);
}

int fsync(int fd) { return sync_or_fail("fsync", fd); }
int fdatasync(int fd) { return sync_or_fail("fdatasync", fd); }
