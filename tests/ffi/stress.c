/* Eight threads create, feed, generate with, cancel, fork and delete shared sessions at random: stress MODEL SECONDS.
 * Every call must return a status that is possible in its situation. Build it with -fsanitize=thread to find races. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kinglet.h"

enum { THREADS = 8, SLOTS = 6 };

static kinglet_model *model;
static kinglet_session *slots[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static time_t end;
static unsigned long calls[THREADS], unexpected[THREADS];

static uint32_t draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static kinglet_session *swap(uint32_t slot, kinglet_session *other, int replace) {
    kinglet_session *held;
    pthread_mutex_lock(&lock);
    held = slots[slot];
    if (replace) slots[slot] = other;
    pthread_mutex_unlock(&lock);
    return held;
}

static void saw(int thread, kinglet_status status) {
    calls[thread]++;
    switch (status) {
    case KINGLET_OK: case KINGLET_DONE: case KINGLET_BUSY: case KINGLET_CANCELLED: case KINGLET_INVALID_HANDLE:
    case KINGLET_INVALID_STATE: case KINGLET_INVALID_ARGUMENT:
        return;
    default:
        unexpected[thread]++;
        fprintf(stderr, "%d: %s\n", (int)status, kinglet_last_error());
    }
}

static void *work(void *argument) {
    int thread = *(int *)argument;
    uint64_t random = 77u + (uint64_t)thread;
    while (time(NULL) < end) {
        uint32_t slot = draw(&random) % SLOTS, tokens[40], i;
        kinglet_session *held = swap(slot, NULL, 0), *made = NULL;
        kinglet_generation *answer = NULL;
        char *text = NULL;
        for (i = 0; i < 40; i++) tokens[i] = draw(&random) % 200;
        switch (draw(&random) % 8) {
        case 0:
            saw(thread, kinglet_session_create(model, &made));
            saw(thread, kinglet_session_delete(swap(slot, made, 1)));
            break;
        case 1:
            saw(thread, kinglet_session_delete(held));
            break;
        case 2:
            saw(thread, kinglet_session_cancel(held));
            break;
        case 3:
            saw(thread, kinglet_session_fork(held, &made));
            if (made) saw(thread, kinglet_session_delete(swap(slot, made, 1)));
            break;
        case 4:
            saw(thread, kinglet_session_reset(held));
            break;
        case 5:
        case 6:
            saw(thread, kinglet_session_feed(held, tokens, 1 + draw(&random) % 40));
            break;
        default:
            saw(thread, kinglet_generation_create(held, tokens, 3, NULL, &answer));
            if (!answer) break;
            for (i = 0; i < 5; i++) saw(thread, kinglet_generation_next(answer, NULL, NULL, NULL));
            saw(thread, kinglet_generation_text(answer, &text, NULL));
            saw(thread, kinglet_free(text));
            saw(thread, kinglet_generation_delete(answer));
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    int numbers[THREADS], i, failed = 0;
    unsigned long total = 0;
    if (argc < 3 || kinglet_model_open(argv[1], NULL, &model) != KINGLET_OK) return 2;
    end = time(NULL) + atol(argv[2]);
    for (i = 0; i < THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, work, &numbers[i])) return 2;
    }
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        total += calls[i];
        failed |= unexpected[i] != 0;
    }
    for (i = 0; i < SLOTS; i++) kinglet_session_delete(slots[i]);
    failed |= kinglet_model_delete(model) != KINGLET_OK;
    printf("%lu calls\n", total);
    return failed;
}
