/* Compares the results of calls with what is expected: programs that include this print differences, and exit with 1 if there are any. */
#ifndef EXPECT_H
#define EXPECT_H

#include <stdio.h>

#include "kinglet.h"

static int failures;

#define EXPECT(call, wanted)                                                                       \
    do {                                                                                           \
        int got = (int)(call);                                                                     \
        if (got != (wanted)) {                                                                     \
            printf("%d: %s gave %d, not %d: %s\n", __LINE__, #call, got, (wanted),                 \
                   kinglet_last_error());                                                          \
            failures++;                                                                            \
        }                                                                                          \
        if (got < 0 && !kinglet_last_error()[0]) {                                                 \
            printf("%d: %s left no message\n", __LINE__, #call);                                   \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

#define OK(call) EXPECT(call, KINGLET_OK)
#define ARGUMENT(call) EXPECT(call, KINGLET_INVALID_ARGUMENT)
#define HANDLE(call) EXPECT(call, KINGLET_INVALID_HANDLE)

/* An invalid handle. */
static void *made_up = (void *)(size_t)0x123456;

#endif
