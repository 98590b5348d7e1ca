/* Greedy answers with drafts equal the answer without: FOLDER [FOLDER OF A DRAFT MODEL]. Without a draft model, the model's own
 * prediction head drafts. Prints the drafted tokens. */
#include <string.h>

#include "expect.h"

enum { COUNT = 24 };

static const uint32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9};

static size_t collect(kinglet_session *session, const kinglet_generation_options *options, uint32_t *tokens, double *drafted) {
    kinglet_generation *answer = NULL;
    size_t count = 0;
    OK(kinglet_session_reset(session));
    OK(kinglet_generation_create(session, prompt, sizeof prompt / sizeof *prompt, options, &answer));
    while (answer && kinglet_generation_next(answer, &tokens[count], NULL, NULL) == KINGLET_OK) count++;
    OK(kinglet_generation_stat(answer, KINGLET_STAT_DRAFTED_TOKENS, drafted));
    kinglet_generation_delete(answer);
    return count;
}

int main(int argc, char **argv) {
    kinglet_model_options *options = NULL;
    kinglet_model *model = NULL, *without = NULL, *other = NULL;
    kinglet_session *session = NULL, *plain = NULL;
    kinglet_generation_options *greedy = NULL;
    kinglet_generation *answer = NULL;
    uint32_t expected[COUNT + 1], tokens[COUNT + 1];
    double drafted = 0;
    if (argc < 2) return 2;
    OK(kinglet_model_options_create(&options));
    OK(kinglet_model_options_set_backend(options, "cpu"));
    OK(kinglet_model_open(argv[1], options, &without));
    OK(kinglet_session_create(without, &plain));
    OK(kinglet_model_options_set_prediction_head(options, argc == 2));
    OK(kinglet_model_open(argv[1], options, &model));
    OK(kinglet_session_create(model, &session));
    if (!session || !plain) return 1;

    HANDLE(kinglet_model_options_set_prediction_head(made_up, 1));
    HANDLE(kinglet_generation_options_set_head_speculation(made_up, 2));
    OK(kinglet_generation_options_create(&greedy));
    OK(kinglet_generation_options_set(greedy, KINGLET_TEMPERATURE, 0));
    OK(kinglet_generation_options_set_max_tokens(greedy, COUNT));
    OK(kinglet_generation_options_set_ignore_eos(greedy, 1));
    EXPECT(collect(plain, greedy, expected, &drafted), COUNT);
    EXPECT(drafted, 0);
    if (argc == 2) {
        EXPECT(kinglet_generation_options_set_head_speculation(greedy, 65), KINGLET_TOO_LARGE);
        OK(kinglet_generation_options_set_head_speculation(greedy, 2));
        /* The head must have been opened. */
        ARGUMENT(kinglet_generation_create(plain, prompt, 2, greedy, &answer));
    } else {
        OK(kinglet_model_options_set_prediction_head(options, 0));
        OK(kinglet_model_open(argv[2], options, &other));
        OK(kinglet_generation_options_set_draft_model(greedy, other, 2));
    }
    EXPECT(collect(session, greedy, tokens, &drafted), COUNT);
    EXPECT(memcmp(tokens, expected, sizeof *tokens * COUNT), 0);
    printf("%d drafted\n", (int)drafted);
    kinglet_generation_options_delete(greedy);
    kinglet_model_options_delete(options);
    kinglet_session_delete(session);
    kinglet_session_delete(plain);
    kinglet_model_delete(model);
    kinglet_model_delete(without);
    kinglet_model_delete(other);
    return failures > 0;
}
