/* Kinglet for Java: the native methods of org.kinglet.Native. Text is passed as UTF-8 with a terminating NUL, handles as
 * numbers; a call that fails throws a KingletException. Nothing here keeps a reference to a Java object. */
#include <jni.h>
#include <stdint.h>
#include <string.h>

#include "kinglet.h"

#define NATIVE(type, name) JNIEXPORT type JNICALL Java_org_kinglet_Native_##name
#define HANDLE(type, number) ((type *)(uintptr_t)(number))

static jbyteArray bytes(JNIEnv *env, const char *text, size_t length) {
    jbyteArray array = length > INT32_MAX ? NULL : (*env)->NewByteArray(env, (jsize)length);
    if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)length, (const jbyte *)text);
    return array;
}

/* Returns whether a call succeeded; if not, an exception is pending, and the caller must return to Java at once. */
static int check(JNIEnv *env, kinglet_status status) {
    const char *message;
    jbyteArray text;
    jclass type;
    jmethodID make;
    jobject thrown;

    if (status >= 0) return 1;
    message = kinglet_last_error();
    if (!(text = bytes(env, message, strlen(message))) ||
        !(type = (*env)->FindClass(env, "org/kinglet/KingletException")) ||
        !(make = (*env)->GetMethodID(env, type, "<init>", "([BI)V")) ||
        !(thrown = (*env)->NewObject(env, type, make, text, (jint)status)))
        return 0; /* The JVM has already thrown its own exception. */
    (*env)->Throw(env, thrown);
    return 0;
}

static char *borrow(JNIEnv *env, jbyteArray array) {
    return array ? (char *)(*env)->GetByteArrayElements(env, array, NULL) : NULL;
}

static void give_back(JNIEnv *env, jbyteArray array, char *text) {
    if (text) (*env)->ReleaseByteArrayElements(env, array, (jbyte *)text, JNI_ABORT);
}

NATIVE(void, check)(JNIEnv *env, jclass self) {
    (void)self;
    check(env, kinglet_check_abi(KINGLET_ABI_VERSION));
}

NATIVE(jlong, filesCreate)(JNIEnv *env, jclass self) {
    kinglet_files *files = NULL;
    (void)self;
    check(env, kinglet_files_create(&files));
    return (jlong)(uintptr_t)files;
}

NATIVE(void, filesAdd)(JNIEnv *env, jclass self, jlong files, jbyteArray name, jint descriptor, jlong offset, jlong length) {
    char *text = borrow(env, name);
    (void)self;
    check(env, kinglet_files_add_fd(HANDLE(kinglet_files, files), text, descriptor, (uint64_t)offset, (uint64_t)length));
    give_back(env, name, text);
}

NATIVE(void, filesDelete)(JNIEnv *env, jclass self, jlong files) {
    (void)self;
    check(env, kinglet_files_delete(HANDLE(kinglet_files, files)));
}

/* Opens the folder `path`, or `files` where it is null. */
static jlong open_model(JNIEnv *env, jbyteArray path, kinglet_files *files, jbyteArray backend) {
    kinglet_model_options *options = NULL;
    kinglet_model *model = NULL;
    char *folder = borrow(env, path), *name = borrow(env, backend);
    kinglet_status status = kinglet_model_options_create(&options);
    if (status >= 0) status = kinglet_model_options_set_backend(options, name);
    if (status >= 0) status = path ? kinglet_model_open(folder, options, &model) : kinglet_model_open_files(files, options, &model);
    give_back(env, backend, name);
    give_back(env, path, folder);
    check(env, status);
    kinglet_model_options_delete(options);
    return (jlong)(uintptr_t)model;
}

NATIVE(jlong, modelOpen)(JNIEnv *env, jclass self, jbyteArray path, jbyteArray backend) {
    (void)self;
    return open_model(env, path, NULL, backend);
}

NATIVE(jlong, modelOpenFiles)(JNIEnv *env, jclass self, jlong files, jbyteArray backend) {
    (void)self;
    return open_model(env, NULL, HANDLE(kinglet_files, files), backend);
}

NATIVE(jbyteArray, modelDescription)(JNIEnv *env, jclass self, jlong model) {
    char *text = NULL;
    jbyteArray result = NULL;
    (void)self;
    if (check(env, kinglet_model_description(HANDLE(kinglet_model, model), &text))) result = bytes(env, text, strlen(text));
    kinglet_free(text);
    return result;
}

NATIVE(void, modelDelete)(JNIEnv *env, jclass self, jlong model) {
    (void)self;
    check(env, kinglet_model_delete(HANDLE(kinglet_model, model)));
}

NATIVE(jlong, sessionCreate)(JNIEnv *env, jclass self, jlong model) {
    kinglet_session *session = NULL;
    (void)self;
    check(env, kinglet_session_create(HANDLE(kinglet_model, model), &session));
    return (jlong)(uintptr_t)session;
}

NATIVE(void, sessionCancel)(JNIEnv *env, jclass self, jlong session) {
    (void)self;
    check(env, kinglet_session_cancel(HANDLE(kinglet_session, session)));
}

NATIVE(void, sessionDelete)(JNIEnv *env, jclass self, jlong session) {
    (void)self;
    check(env, kinglet_session_delete(HANDLE(kinglet_session, session)));
}

NATIVE(jlong, chat)(JNIEnv *env, jclass self, jlong session, jbyteArray messages, jint max_tokens, jlong seed) {
    kinglet_generation_options *options = NULL;
    kinglet_generation *generation = NULL;
    char *text = borrow(env, messages);
    kinglet_status status = kinglet_generation_options_create(&options);
    (void)self;
    if (status >= 0 && max_tokens > 0) status = kinglet_generation_options_set_max_tokens(options, (size_t)max_tokens);
    if (status >= 0 && seed >= 0) status = kinglet_generation_options_set_seed(options, (uint64_t)seed);
    if (status >= 0) status = kinglet_generation_create_chat(HANDLE(kinglet_session, session), text, options, &generation);
    give_back(env, messages, text);
    check(env, status);
    kinglet_generation_options_delete(options);
    return (jlong)(uintptr_t)generation;
}

NATIVE(jbyteArray, next)(JNIEnv *env, jclass self, jlong generation) {
    const char *text = NULL;
    size_t length = 0;
    kinglet_status status = kinglet_generation_next(HANDLE(kinglet_generation, generation), NULL, &text, &length);
    (void)self;
    return check(env, status) && status == KINGLET_OK ? bytes(env, text, length) : NULL;
}

NATIVE(jdouble, stat)(JNIEnv *env, jclass self, jlong generation, jint stat) {
    double value = 0;
    (void)self;
    check(env, kinglet_generation_stat(HANDLE(kinglet_generation, generation), (uint32_t)stat, &value));
    return value;
}

NATIVE(void, generationDelete)(JNIEnv *env, jclass self, jlong generation) {
    (void)self;
    check(env, kinglet_generation_delete(HANDLE(kinglet_generation, generation)));
}
