/* What a call came to against what it should: the programs that include this print what differs, and end with 1 if anything did. */
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

/* No handle. */
static void *made_up = (void *)(size_t)0x123456;

#endif
