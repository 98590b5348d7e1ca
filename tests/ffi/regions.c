/* Opens a model from a folder, or from an archive whose index is on standard input. Prints a greedy answer and what is
 * known about memory use. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kinglet.h"

static int32_t seen(void *user, uint64_t done, uint64_t total) {
    if (done == total && total > 0) ++*(int *)user;
    return 0;
}

int main(int argc, char **argv) {
    kinglet_model *model = NULL;
    kinglet_session *session = NULL;
    kinglet_generation *answer = NULL;
    kinglet_generation_options *greedy = NULL;
    kinglet_model_options *options = NULL;
    kinglet_files *files = NULL;
    struct stat kind;
    char name[256], *text = NULL;
    unsigned long offset, length;
    uint64_t weights = 0, state = 0, working = 0;
    int fd, complete = 0;

    if (argc < 2 || stat(argv[1], &kind) != 0) return 2;
    kinglet_model_options_create(&options);
    kinglet_model_options_set_fetch(options, 1);
    kinglet_model_options_set_progress(options, seen, &complete);
    if (S_ISDIR(kind.st_mode)) {
        if (kinglet_estimate(argv[1], options, 1000, &weights, &state, &working) != KINGLET_OK) goto fail;
        if (kinglet_model_open(argv[1], options, &model) != KINGLET_OK) goto fail;
    } else {
        if (kinglet_files_create(&files) != KINGLET_OK) goto fail;
        fd = open(argv[1], O_RDONLY);
        while (scanf("%255s %lu %lu", name, &offset, &length) == 3) {
            if (kinglet_files_add_fd(files, name, fd, offset, length) != KINGLET_OK) goto fail;
        }
        if (lseek(fd, 0, SEEK_CUR) != 0) return 3;
        /* The descriptor belongs to the program and is no longer needed. */
        close(fd);
        /* Only reports; doesn't consume the files. */
        if (kinglet_estimate_files(files, options, 1000, &weights, &state, &working) != KINGLET_OK) goto fail;
        if (kinglet_model_open_files(files, options, &model) != KINGLET_OK) goto fail;
        if (kinglet_files_delete(files) != KINGLET_OK) goto fail;
    }
    if (complete < 1) return 4;
    if (kinglet_session_create(model, &session) != KINGLET_OK ||
        kinglet_generation_options_create(&greedy) != KINGLET_OK ||
        kinglet_generation_options_set(greedy, KINGLET_TEMPERATURE, 0) != KINGLET_OK ||
        kinglet_generation_options_set_max_tokens(greedy, 20) != KINGLET_OK ||
        kinglet_generation_create_chat(session, "[{\"role\":\"user\",\"content\":\"Tell me a story.\"}]", greedy,
                                       &answer) != KINGLET_OK ||
        kinglet_generation_run(answer, NULL, NULL) != KINGLET_OK ||
        kinglet_generation_text(answer, &text, NULL) != KINGLET_OK)
        goto fail;
    printf("%s\n%lu %lu %lu bytes\n", text, (unsigned long)weights, (unsigned long)state, (unsigned long)working);
    kinglet_free(text);
    kinglet_generation_delete(answer);
    kinglet_generation_options_delete(greedy);
    kinglet_model_options_delete(options);
    kinglet_session_delete(session);
    kinglet_model_delete(model);
    return 0;
fail:
    fprintf(stderr, "%s\n", kinglet_last_error());
    return 1;
}
