/* Makes every fsync and fdatasync of a program take longer, as on a slower disk:
 *
 *   cc -shared -fPIC -O2 -o slow-sync.so benches/slow-sync.c
 *   SLOW_SYNC_US=3240 LD_PRELOAD=$PWD/slow-sync.so store-bench commit
 *
 * Child processes inherit it, so PostgreSQL's servers and our own process wait alike. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_longer(void) {
  const char *us = getenv("SLOW_SYNC_US");
  if (us) usleep((useconds_t)atoi(us));
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  wait_longer();
  return real(fd);
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  wait_longer();
  return real(fd);
}
