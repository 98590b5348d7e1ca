/* Calls the functions of sessions and snapshots with null, zero, deleted and absurd arguments: each must return a status, and none may crash. */
#include <math.h>
#include <stdlib.h>

#include "expect.h"

static void sessions(kinglet_model *model, kinglet_model *other) {
    kinglet_session *s = NULL, *fork = NULL, *pair[2], *foreign = NULL;
    kinglet_snapshot *snapshot = NULL;
    uint32_t tokens[3] = {1, 2, 3}, wild = UINT32_MAX, *held = NULL;
    const uint32_t *lists[2];
    size_t counts[2], count, vocabulary = 0;
    void *data = NULL;
    float logit, *logits;
    ARGUMENT(kinglet_session_create(NULL, &s));
    ARGUMENT(kinglet_session_create(model, NULL));
    HANDLE(kinglet_session_create(made_up, &s));
    OK(kinglet_session_create(model, &s));
    HANDLE(kinglet_session_position((kinglet_session *)model, &count));
    ARGUMENT(kinglet_session_feed(s, NULL, 1));
    ARGUMENT(kinglet_session_feed(s, NULL, 0));
    ARGUMENT(kinglet_session_feed(s, tokens, 0));
    EXPECT(kinglet_session_feed(s, tokens, SIZE_MAX), KINGLET_TOO_LARGE);
    EXPECT(kinglet_session_feed(s, tokens, SIZE_MAX / 4), KINGLET_TOO_LARGE);
    ARGUMENT(kinglet_session_feed(s, &wild, 1));
    ARGUMENT(kinglet_session_feed_text(s, "", 0, 0));
    EXPECT(kinglet_session_feed_text(s, "\xff", 1, 0), KINGLET_INVALID_UTF8);
    EXPECT(kinglet_session_logits(s, &logit, 1), KINGLET_INVALID_STATE);
    ARGUMENT(kinglet_session_position(s, NULL));
    ARGUMENT(kinglet_session_tokens(s, NULL, &count));
    OK(kinglet_session_memory(s, NULL, NULL));
    OK(kinglet_session_feed(s, tokens, 3));
    OK(kinglet_session_tokens(s, &held, &count));
    EXPECT(count, 3);
    EXPECT(held[2], 3);
    OK(kinglet_free(held));
    ARGUMENT(kinglet_session_logits(s, &logit, 1));
    OK(kinglet_model_vocabulary(model, &vocabulary));
    ARGUMENT(kinglet_session_logits(s, NULL, vocabulary));
    logits = malloc(vocabulary * sizeof *logits);
    OK(kinglet_session_logits(s, logits, vocabulary));
    EXPECT(isfinite(logits[0]) && isfinite(logits[vocabulary - 1]), 1);

    /* Vectors in place of tokens: the embeddings of the same tokens give the same logits. */
    {
        size_t width = 0, i;
        float *vectors, *again = malloc(vocabulary * sizeof *again);
        kinglet_session *embedded = NULL;
        ARGUMENT(kinglet_model_embedding_width(model, NULL));
        ARGUMENT(kinglet_model_embedding_width(NULL, &width));
        OK(kinglet_model_embedding_width(model, &width));
        vectors = malloc(3 * width * sizeof *vectors);
        ARGUMENT(kinglet_model_embed(model, tokens, 3, vectors, 3 * width - 1));
        ARGUMENT(kinglet_model_embed(model, tokens, 3, NULL, 3 * width));
        ARGUMENT(kinglet_model_embed(model, NULL, 3, vectors, 3 * width));
        ARGUMENT(kinglet_model_embed(model, &wild, 1, vectors, 3 * width));
        EXPECT(kinglet_model_embed(model, tokens, SIZE_MAX, vectors, SIZE_MAX), KINGLET_TOO_LARGE);
        OK(kinglet_model_embed(model, tokens, 3, vectors, 3 * width));
        OK(kinglet_session_create(model, &embedded));
        ARGUMENT(kinglet_session_feed_embeddings(embedded, NULL, width));
        ARGUMENT(kinglet_session_feed_embeddings(embedded, vectors, 0));
        ARGUMENT(kinglet_session_feed_embeddings(embedded, vectors, width + 1));
        EXPECT(kinglet_session_feed_embeddings(embedded, vectors, SIZE_MAX), KINGLET_TOO_LARGE);
        vectors[width] *= INFINITY;
        ARGUMENT(kinglet_session_feed_embeddings(embedded, vectors, 3 * width));
        OK(kinglet_model_embed(model, tokens, 3, vectors, 3 * width));
        OK(kinglet_session_cancel(embedded));
        EXPECT(kinglet_session_feed_embeddings(embedded, vectors, 3 * width), KINGLET_CANCELLED);
        OK(kinglet_session_feed_embeddings(embedded, vectors, 3 * width));
        OK(kinglet_session_logits(embedded, again, vocabulary));
        for (i = 0; i < vocabulary; i++)
            if (!(fabsf(again[i] - logits[i]) <= 1e-3f)) break;
        EXPECT(i == vocabulary, 1);
        OK(kinglet_session_tokens(embedded, &held, &count));
        EXPECT(count == 3 && held[0] >= 0x80000000u && held[0] != held[1], 1);
        OK(kinglet_free(held));
        ARGUMENT(kinglet_session_feed(embedded, &wild, 1));
        OK(kinglet_session_delete(embedded));
        HANDLE(kinglet_session_feed_embeddings(embedded, vectors, width));
        free(vectors);
        free(again);
    }
    free(logits);

    /* A cancellation stays pending until the next call, which clears it. */
    OK(kinglet_session_cancel(s));
    EXPECT(kinglet_session_feed(s, tokens, 3), KINGLET_CANCELLED);
    OK(kinglet_session_position(s, &count));
    EXPECT(count, 3);
    OK(kinglet_session_feed(s, tokens, 1));
    OK(kinglet_session_cancel(s));
    OK(kinglet_session_clear_cancel(s));
    OK(kinglet_session_feed(s, tokens, 1));

    ARGUMENT(kinglet_session_fork(s, NULL));
    OK(kinglet_session_fork(s, &fork));
    ARGUMENT(kinglet_step(NULL, NULL, NULL, 0));
    ARGUMENT(kinglet_step(NULL, NULL, NULL, 2));
    EXPECT(kinglet_step(pair, lists, counts, SIZE_MAX), KINGLET_TOO_LARGE);
    pair[0] = s, pair[1] = s, lists[0] = lists[1] = tokens, counts[0] = 1, counts[1] = 2;
    EXPECT(kinglet_step((kinglet_session *const *)pair, lists, counts, 2), KINGLET_BUSY);
    pair[1] = fork;
    OK(kinglet_step((kinglet_session *const *)pair, lists, counts, 2));
    lists[1] = NULL;
    ARGUMENT(kinglet_step((kinglet_session *const *)pair, lists, counts, 2));
    counts[1] = 0;
    ARGUMENT(kinglet_step((kinglet_session *const *)pair, lists, counts, 2));
    pair[1] = NULL;
    ARGUMENT(kinglet_step((kinglet_session *const *)pair, lists, counts, 2));
    OK(kinglet_session_create(other, &foreign));
    pair[1] = foreign, lists[1] = tokens, counts[1] = 1;
    EXPECT(kinglet_step((kinglet_session *const *)pair, lists, counts, 2), KINGLET_INVALID_STATE);

    ARGUMENT(kinglet_snapshot_create(s, NULL));
    OK(kinglet_snapshot_create(s, &snapshot));
    EXPECT(kinglet_session_restore(foreign, snapshot), KINGLET_INVALID_STATE);
    ARGUMENT(kinglet_session_restore(s, NULL));
    OK(kinglet_session_reset(s));
    OK(kinglet_session_restore(s, snapshot));
    OK(kinglet_session_position(s, &count));
    EXPECT(count, 6);
    ARGUMENT(kinglet_snapshot_session(snapshot, NULL));
    OK(kinglet_snapshot_delete(snapshot));
    HANDLE(kinglet_snapshot_delete(snapshot));
    HANDLE(kinglet_session_restore(s, snapshot));
    EXPECT(kinglet_session_rewind(s, SIZE_MAX, 0, NULL), KINGLET_NOT_REACHABLE);
    EXPECT(kinglet_session_rewind(s, SIZE_MAX, 1, NULL), KINGLET_NOT_REACHABLE);
    OK(kinglet_session_mark(s));
    OK(kinglet_session_rewind(s, 2, 1, &count));
    EXPECT(count, 2);
    OK(kinglet_session_rewind(s, 0, 0, NULL));

    OK(kinglet_session_feed(s, tokens, 3));
    ARGUMENT(kinglet_session_save(s, NULL));
    EXPECT(kinglet_session_save(s, "/no such folder/x"), KINGLET_NOT_FOUND);
    ARGUMENT(kinglet_session_save_bytes(s, NULL, &count));
    ARGUMENT(kinglet_session_save_bytes(s, &data, NULL));
    OK(kinglet_session_save_bytes(s, &data, &count));
    OK(kinglet_session_delete(fork));
    OK(kinglet_session_load_bytes(model, data, count, &fork));
    EXPECT(kinglet_session_load_bytes(other, data, count, &s), KINGLET_BAD_SAVED_STATE);
    EXPECT(kinglet_session_load_bytes(model, data, count - 1, &s), KINGLET_BAD_SAVED_STATE);
    EXPECT(kinglet_session_load_bytes(model, NULL, 0, &s), KINGLET_BAD_SAVED_STATE);
    EXPECT(kinglet_session_load_bytes(model, data, SIZE_MAX, &s), KINGLET_TOO_LARGE);
    ARGUMENT(kinglet_session_load_bytes(model, data, count, NULL));
    OK(kinglet_free(data));
    EXPECT(kinglet_session_load(model, "/no such file", &s), KINGLET_NOT_FOUND);
    ARGUMENT(kinglet_session_load(model, NULL, &s));
    OK(kinglet_session_delete(foreign));
    OK(kinglet_session_delete(fork));
    OK(kinglet_session_delete(s));
    HANDLE(kinglet_session_delete(s));
    HANDLE(kinglet_session_cancel(s));
    HANDLE(kinglet_session_reset(s));
    HANDLE(kinglet_session_feed(s, tokens, 1));
}

int main(int argc, char **argv) {
    kinglet_model *model = NULL, *other = NULL;
    if (argc < 3) return 2;
    OK(kinglet_model_open(argv[1], NULL, &model));
    OK(kinglet_model_open(argv[2], NULL, &other));
    sessions(model, other);
    OK(kinglet_model_delete(model));
    OK(kinglet_model_delete(other));
    return failures ? 1 : 0;
}
