"""Builds `cyrusext.net._sasl`, the binding of libsasl2's server side (cffi, API mode).

Rule: what libsasl2 calls back runs in C and needs no Python: options come from a table filled before
`sasl_server_init`, mutexes are pthread's, and its log lines are dropped (reasons are read with `sasl_errdetail`).
"""

from __future__ import annotations

from cffi import FFI

ffi = FFI()

ffi.cdef(
    """
    typedef struct sasl_conn sasl_conn_t;
    #define SASL_OK ...
    #define SASL_CONTINUE ...
    #define SASL_BADAUTH ...
    #define SASL_NOUSER ...
    #define SASL_NOMECH ...
    #define SASL_BADPROT ...
    #define SASL_UNAVAIL ...
    #define SASL_TRYAGAIN ...
    #define SASL_USERNAME ...
    #define SASL_SET_CREATE ...

    int cyx_sasl_option(const char *name, const char *value);
    int cyx_sasl_init(const char *appname);
    const char **sasl_global_listmech(void);
    int cyx_sasl_new(const char *service, const char *hostname, const char *realm, const char *external,
                     unsigned external_ssf, sasl_conn_t **conn_r);
    int sasl_server_start(sasl_conn_t *conn, const char *mech, const char *clientin, unsigned clientinlen,
                          const char **serverout, unsigned *serveroutlen);
    int sasl_server_step(sasl_conn_t *conn, const char *clientin, unsigned clientinlen,
                         const char **serverout, unsigned *serveroutlen);
    int cyx_sasl_username(sasl_conn_t *conn, const char **username_r);
    int sasl_setpass(sasl_conn_t *conn, const char *user, const char *pass, unsigned passlen,
                     const char *oldpass, unsigned oldpasslen, unsigned flags);
    const char *sasl_errdetail(sasl_conn_t *conn);
    const char *sasl_errstring(int saslerr, const char *langlist, const char **outlang);
    void sasl_dispose(sasl_conn_t **conn);
    """
)

ffi.set_source(
    "cyrusext.net._sasl",
    r"""
    #include <pthread.h>
    #include <stdlib.h>
    #include <string.h>
    #include <stddef.h>
    #include <sasl/sasl.h>

    #define MAX_OPTIONS 16
    static struct { char *name; char *value; } options[MAX_OPTIONS];
    static int option_count;

    /* Sets one option of libsasl2; only before cyx_sasl_init(). Returns 0, or -1 when there is no room. */
    static int cyx_sasl_option(const char *name, const char *value)
    {
        if (option_count == MAX_OPTIONS) return -1;
        options[option_count].name = strdup(name);
        options[option_count].value = strdup(value);
        if (!options[option_count].name || !options[option_count].value) return -1;
        option_count++;
        return 0;
    }

    static int get_option(void *context, const char *plugin, const char *name, const char **value, unsigned *length)
    {
        int i;
        (void) context;
        (void) plugin;
        for (i = 0; i < option_count; i++) {
            if (!strcmp(options[i].name, name)) {
                *value = options[i].value;
                if (length) *length = (unsigned) strlen(options[i].value);
                return SASL_OK;
            }
        }
        return SASL_FAIL;
    }

    static int drop_log(void *context, int level, const char *message)
    {
        (void) context;
        (void) level;
        (void) message;
        return SASL_OK;
    }

    static void *mutex_new(void)
    {
        pthread_mutex_t *mutex = malloc(sizeof *mutex);
        if (mutex && pthread_mutex_init(mutex, NULL)) { free(mutex); mutex = NULL; }
        return mutex;
    }
    static int mutex_lock(void *mutex) { return pthread_mutex_lock(mutex) ? SASL_FAIL : SASL_OK; }
    static int mutex_unlock(void *mutex) { return pthread_mutex_unlock(mutex) ? SASL_FAIL : SASL_OK; }
    static void mutex_free(void *mutex) { if (mutex) { pthread_mutex_destroy(mutex); free(mutex); } }

    static sasl_callback_t callbacks[] = {
        { SASL_CB_GETOPT, (int (*)(void)) get_option, NULL },
        { SASL_CB_LOG, (int (*)(void)) drop_log, NULL },
        { SASL_CB_LIST_END, NULL, NULL },
    };

    static int cyx_sasl_init(const char *appname)
    {
        sasl_set_mutex(mutex_new, mutex_lock, mutex_unlock, mutex_free);
        return sasl_server_init(callbacks, appname);
    }

    /*
     * Begins a login without a security layer: TLS is what encrypts.  `external`, where not NULL, is whom TLS has
     * proved the client to be, and `external_ssf` the bits of its cipher.  SASL_SUCCESS_DATA is not set, since MUPDATE
     * has no place for data in an OK: libsasl2 then gives it as one more challenge, answered by an empty line.
     */
    static int cyx_sasl_new(const char *service, const char *hostname, const char *realm, const char *external,
                            unsigned external_ssf, sasl_conn_t **conn_r)
    {
        static const sasl_security_properties_t no_layer = { 0, 0, 0, SASL_SEC_NOANONYMOUS, NULL, NULL };
        sasl_ssf_t ssf = external_ssf;
        int result = sasl_server_new(service, hostname, realm, NULL, NULL, NULL, 0, conn_r);
        if (result == SASL_OK) result = sasl_setprop(*conn_r, SASL_SEC_PROPS, &no_layer);
        if (result == SASL_OK) result = sasl_setprop(*conn_r, SASL_SSF_EXTERNAL, &ssf);
        if (result == SASL_OK && external) result = sasl_setprop(*conn_r, SASL_AUTH_EXTERNAL, external);
        if (result != SASL_OK && *conn_r) sasl_dispose(conn_r);
        return result;
    }

    static int cyx_sasl_username(sasl_conn_t *conn, const char **username_r)
    {
        const void *value = NULL;
        int result = sasl_getprop(conn, SASL_USERNAME, &value);
        *username_r = result == SASL_OK ? value : NULL;
        return result;
    }
    """,
    libraries=["sasl2"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
