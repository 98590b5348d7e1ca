/* Prints which experts some tokens use, of a model with experts and of one without. */
#include <stdio.h>
#include <string.h>

#include "expect.h"
#include "kinglet.h"

int main(int argc, char **argv)
{
    const uint32_t tokens[] = {2, 2558, 373, 17, 4, 2, 99, 5};
    const uint32_t unknown[] = {2, 0xffffffffu};
    struct kinglet_model *model = NULL;
    char *json = NULL;
    int i;
    if (argc != 3)
        return 2;
    for (i = 1; i < argc; i++) {
        EXPECT(kinglet_model_open(argv[i], NULL, &model), KINGLET_OK);
        EXPECT(kinglet_model_expert_use(model, tokens, 8, &json), KINGLET_OK);
        printf("%s\n", json);
        EXPECT(kinglet_free(json), KINGLET_OK);
        EXPECT(kinglet_model_expert_use(model, unknown, 2, &json), KINGLET_INVALID_ARGUMENT);
        EXPECT(kinglet_model_expert_use(model, NULL, 2, &json), KINGLET_INVALID_ARGUMENT);
        EXPECT(kinglet_model_expert_use(model, tokens, 8, NULL), KINGLET_INVALID_ARGUMENT);
        EXPECT(kinglet_model_expert_use(made_up, tokens, 8, &json), KINGLET_INVALID_HANDLE);
        EXPECT(kinglet_model_expert_use(NULL, tokens, 8, &json), KINGLET_INVALID_ARGUMENT);
        EXPECT(kinglet_model_delete(model), KINGLET_OK);
        EXPECT(kinglet_model_expert_use(model, tokens, 8, &json), KINGLET_INVALID_HANDLE);
    }
    return failures;
}
