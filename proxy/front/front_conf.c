/* SPDX-License-Identifier: MIT */
#include "proxy/front/front_conf.h"

const struct database_conf *front_database(const struct front_conf *front, struct span name)
{
    const struct database_conf *any = NULL;
    for (size_t i = 0; i < front->n_databases; i++) {
        const struct database_conf *db = &front->databases[i];
        if (span_eq(span_str(db->name), name))
            return db;
        if (strcmp(db->name, "*") == 0)
            any = db;
    }
    return any;
}

/* Physical replication knows no database. Both need a server of their own as long as they last. */
static bool serves_replication(const struct front_conf *front, const struct pool_identity *id)
{
    bool physical = strcmp(id->replication, "true") == 0;
    return front->mode == FRONT_SESSION &&
           (physical || front->n_databases == 0 || front_database(front, id->database));
}

bool front_serves(const struct front_conf *front, const struct pool_identity *id)
{
    /* With another login_as the keys say something else. */
    bool own_login = front->login_as == FRONT_LOGIN_CLIENT;
    if (own_login != (id->user.n > 0))
        return false;
    return id->replication ? serves_replication(front, id)
                           : front_database(front, id->database) != NULL;
}

bool front_is_listed(const struct front_conf *front, struct span database)
{
    const struct database_conf *db = front_database(front, database);
    return db && front->login_as == FRONT_LOGIN_POOL && strcmp(db->name, "*") != 0;
}
