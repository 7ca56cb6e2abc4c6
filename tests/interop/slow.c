/* Loaded into a node (LD_PRELOAD): it takes SLOW_MS longer to start, from the moment on at which the data
 * directory is its own. That moment is a rename to handoff.gen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    int done = real(from, to);
    const char *ms = getenv("SLOW_MS");
    const char *name = strrchr(to, '/');
    if (done == 0 && ms && name && !strcmp(name, "/handoff.gen")) {
        usleep((useconds_t)atoi(ms) * 1000);
    }
    return done;
}
