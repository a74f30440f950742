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

bool front_is_listed(const struct front_conf *front, struct span database)
{
    const struct database_conf *db = front_database(front, database);
    return db && front->login_as == FRONT_LOGIN_POOL && strcmp(db->name, "*") != 0;
}
