/* SPDX-License-Identifier: MIT */
/*
 * Every way known to us of making two HTTP readers disagree, one named test each: what the parser
 * says to it, in one piece, byte by byte and cut in two at every place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/wire/test_http_trace.h"

#define HOST "Host: h\r\n"
#define OK "HTTP/1.1 200 OK\r\n"
#define END "\r\n"
#define POST "POST / HTTP/1.1\r\n" HOST

struct vector {
    const char *name;
    struct span in;
    const char *says; /* the trace begins with this */
};

#define V(vector_name, bytes, says_text)                                                           \
    {vector_name, {(const uint8_t *)("" bytes), sizeof(bytes) - 1}, says_text}
#define GOOD(target) "HEAD GET " target " HTTP/1.1 host=h body=none keep\nEND\nQUIET\n"
#define GET(target) "GET " target " HTTP/1.1\r\n" HOST END
#define TEN(s) s s s s s s s s s s
#define HUNDRED(s) TEN(TEN(s))

static const struct vector requests[] = {
    /* The request line. */
    V("request_plain", GET("/"), GOOD("/")),
    V("version_0.9_simple", "GET /\r\n", "BAD 400"),
    V("version_0.9", "GET / HTTP/0.9\r\n" HOST END, "BAD 505"),
    V("version_2.0", "GET / HTTP/2.0\r\n" HOST END, "BAD 505"),
    V("version_1.2", "GET / HTTP/1.2\r\n" HOST END, "BAD 505"),
    V("version_http2_preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "BAD 505"),
    V("version_lower_case", "GET / http/1.1\r\n" HOST END, "BAD 400"),
    V("version_two_digits", "GET / HTTP/1.10\r\n" HOST END, "BAD 400"),
    V("version_zeros", "GET / HTTP/01.1\r\n" HOST END, "BAD 400"),
    V("protocol_rtsp", "DESCRIBE / RTSP/1.0\r\n" HOST END, "BAD 400"),
    V("protocol_rtsp_options", "OPTIONS / RTSP/1.0\r\n" HOST END, "BAD 400"),
    V("protocol_ice", "SOURCE / ICE/1.0\r\n" HOST END, "BAD 400"),
    V("rtsp_method_over_http", "DESCRIBE / HTTP/1.1\r\n" HOST END, "BAD 501"),
    V("method_unknown", "BREW / HTTP/1.1\r\n" HOST END, "BAD 501"),
    V("method_lower_case", "get / HTTP/1.1\r\n" HOST END, "BAD 501"),
    V("method_not_a_token", "G(T / HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("method_missing", " / HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("spaces_after_method", "GET  / HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("spaces_before_version", "GET /  HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("space_after_version", "GET / HTTP/1.1 \r\n" HOST END, "BAD 400"),
    V("tab_in_request_line", "GET\t/ HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("no_target", "GET HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("tls_on_plain_port", "\x16\x03\x01\x02\x00\x01", "BAD 400 the client began TLS"),
    V("leading_crlf_once", "\r\n" GET("/"), GOOD("/")),
    V("leading_crlf_twice", "\r\n\r\n" GET("/"), "BAD 400"),
    V("leading_lf", "\n" GET("/"), "BAD 400"),
    V("leading_cr", "\r" GET("/"), "BAD 400"),
    V("leading_cr_crlf", "\r\r\n" GET("/"), "BAD 400"),
    V("leading_crlf_lf", "\r\n\n" GET("/"), "BAD 400"),
    V("leading_crlf_between_messages", GET("/") "\r\n" GET("/b"),
      "HEAD GET / HTTP/1.1 host=h body=none keep\nEND\n" GOOD("/b")),

    /* Targets. */
    V("target_fragment", GET("/a#b"), "BAD 400"),
    V("target_less_than", GET("/a<b"), "BAD 400"),
    V("target_greater_than", GET("/a>b"), "BAD 400"),
    V("target_quote", GET("/a\"b"), "BAD 400"),
    V("target_brace_open", GET("/a{b"), "BAD 400"),
    V("target_brace_close", GET("/a}b"), "BAD 400"),
    V("target_pipe", GET("/a|b"), "BAD 400"),
    V("target_backslash", GET("/a\\b"), "BAD 400"),
    V("target_caret", GET("/a^b"), "BAD 400"),
    V("target_backtick", GET("/a`b"), "BAD 400"),
    V("target_caret_in_query", GET("/?a^b"), "BAD 400"),
    V("target_high_byte", GET("/a\xff"), "BAD 400"),
    V("target_control", GET("/a\x01"), "BAD 400"),
    V("target_nul", GET("/a\0"), "BAD 400"),
    V("target_percent_cut", GET("/a%4"), "BAD 400"),
    V("target_percent_not_hex", GET("/a%zz"), "BAD 400"),
    V("target_brackets_in_query", GET("/?a[]=1&b=%zz"), GOOD("/?a[]=1&b=%zz")),
    V("target_two_slashes", GET("//x/y"), GOOD("//x/y")),
    V("target_relative", GET("a/b"), "BAD 400"),
    V("target_asterisk_get", GET("*"), "BAD 400"),
    V("target_asterisk_x", "OPTIONS *x HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("target_asterisk_options", "OPTIONS * HTTP/1.1\r\n" HOST END,
      "HEAD OPTIONS * HTTP/1.1 host=h body=none keep\nEND\n"),
    V("target_userinfo", GET("http://u:p@h/"), "BAD 400"),
    V("target_scheme_ftp", GET("ftp://h/"), "BAD 400"),
    V("target_scheme_ws", GET("ws://h/"), "BAD 400"),
    V("target_scheme_javascript", GET("javascript:x"), "BAD 400"),
    V("target_no_authority", GET("http:///x"), "BAD 400"),
    V("target_bad_port", GET("http://h:99999/x"), "BAD 400"),
    V("target_bad_ip_literal", GET("http://[::1/x"), "BAD 400"),
    V("host_differs_from_authority", GET("http://other:81/x"),
      "HEAD GET http://other:81/x HTTP/1.1 host=other:81 body=none keep\nEND\n"),
    V("connect_path", "CONNECT /x HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("connect_no_port", "CONNECT h HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("connect_empty_port", "CONNECT h: HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("connect_port_zero", "CONNECT h:0 HTTP/1.1\r\n" HOST END, "BAD 400"),
    V("connect_content_length", "CONNECT h:1 HTTP/1.1\r\n" HOST "Content-Length: 1\r\n" END "x",
      "BAD 400"),
    V("connect_chunked", "CONNECT h:1 HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END,
      "BAD 400"),
    V("connect_plain", "CONNECT h:1 HTTP/1.1\r\n" HOST END,
      "HEAD CONNECT h:1 HTTP/1.1 host=h:1 body=none keep connect\nEND\n"),

    /* Host. */
    V("host_missing", "GET / HTTP/1.1\r\n" END, "BAD 400 there is no Host"),
    V("host_missing_in_absolute_form", "GET http://h/ HTTP/1.1\r\n" END, "BAD 400"),
    V("host_missing_in_1.0", "GET / HTTP/1.0\r\n" END,
      "HEAD GET / HTTP/1.0 host= body=none\nEND\n"),
    V("host_twice", "GET / HTTP/1.1\r\n" HOST HOST END, "BAD 400"),
    V("host_twice_in_1.0", "GET / HTTP/1.0\r\n" HOST "Host: i\r\n" END, "BAD 400"),
    V("host_empty", "GET / HTTP/1.1\r\nHost:\r\n" END, "BAD 400"),
    V("host_two_names", "GET / HTTP/1.1\r\nHost: a b\r\n" END, "BAD 400"),
    V("host_list", "GET / HTTP/1.1\r\nHost: a,b\r\n" END, "BAD 400"),
    V("host_userinfo", "GET / HTTP/1.1\r\nHost: u@h\r\n" END, "BAD 400"),
    V("host_path", "GET / HTTP/1.1\r\nHost: h/x\r\n" END, "BAD 400"),
    V("host_port_not_a_number", "GET / HTTP/1.1\r\nHost: h:x\r\n" END, "BAD 400"),
    V("host_port_too_large", "GET / HTTP/1.1\r\nHost: h:65536\r\n" END, "BAD 400"),
    V("host_ipv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n" END,
      "HEAD GET / HTTP/1.1 host=[::1]:80 body=none keep\nEND\n"),

    /* Content-Length. */
    V("cl_plain", POST "Content-Length: 3\r\n" END "abc",
      "HEAD POST / HTTP/1.1 host=h body=length:3 keep\nBODY abc\nEND\nQUIET\n"),
    V("cl_zero", POST "Content-Length: 0\r\n" END,
      "HEAD POST / HTTP/1.1 host=h body=length:0 keep\nEND\nQUIET\n"),
    V("cl_leading_zero", POST "Content-Length: 010\r\n" END "0123456789", "BAD 400"),
    V("cl_plus", POST "Content-Length: +1\r\n" END "a", "BAD 400"),
    V("cl_minus", POST "Content-Length: -1\r\n" END "a", "BAD 400"),
    V("cl_empty", POST "Content-Length:\r\n" END, "BAD 400"),
    V("cl_hex", POST "Content-Length: 0x1\r\n" END "a", "BAD 400"),
    V("cl_space_inside", POST "Content-Length: 1 1\r\n" END "a", "BAD 400"),
    V("cl_list_equal", POST "Content-Length: 1, 1\r\n" END "a", "BAD 400"),
    V("cl_twice_equal", POST "Content-Length: 1\r\nContent-Length: 1\r\n" END "a", "BAD 400"),
    V("cl_twice_differing", POST "Content-Length: 1\r\nContent-Length: 2\r\n" END "ab", "BAD 400"),
    V("cl_2^63", POST "Content-Length: 9223372036854775808\r\n" END, "BAD 413"),
    V("cl_2^64-1", POST "Content-Length: 18446744073709551615\r\n" END, "BAD 413"),
    V("cl_2^64", POST "Content-Length: 18446744073709551616\r\n" END, "BAD 413"),
    V("cl_2^63-1", POST "Content-Length: 9223372036854775807\r\n" END,
      "HEAD POST / HTTP/1.1 host=h body=length:9223372036854775807 keep\nMORE\n"),
    V("cl_space_before_colon", POST "Content-Length : 3\r\n" END "abc", "BAD 400"),
    V("cl_underscore_twin", POST "Content_Length: 3\r\n" END,
      "HEAD POST / HTTP/1.1 host=h body=none keep\nEND\nQUIET\n"),

    /* Transfer-Encoding. */
    V("te_plain", POST "Transfer-Encoding: Chunked\r\n" END "3\r\nabc\r\n0\r\n\r\n",
      "HEAD POST / HTTP/1.1 host=h body=chunked keep\nBODY abc\nEND\nQUIET\n"),
    V("cl_te", POST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n" END "0\r\n\r\n",
      "BAD 400"),
    V("te_cl", POST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n" END "0\r\n\r\n",
      "BAD 400"),
    V("te_comma_chunked", POST "Transfer-Encoding: ,chunked\r\n" END "0\r\n\r\n", "BAD 400"),
    V("te_chunked_comma", POST "Transfer-Encoding: chunked,\r\n" END "0\r\n\r\n", "BAD 400"),
    V("te_twice_in_one", POST "Transfer-Encoding: chunked, chunked\r\n" END, "BAD 400"),
    V("te_twice", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END,
      "BAD 400"),
    V("te_identity", POST "Transfer-Encoding: identity\r\n" END, "BAD 400"),
    V("te_identity_and_chunked",
      POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" END, "BAD 400"),
    V("te_gzip_chunked", POST "Transfer-Encoding: gzip, chunked\r\n" END "0\r\n\r\n", "BAD 501"),
    V("te_chunked_gzip", POST "Transfer-Encoding: chunked, gzip\r\n" END "0\r\n\r\n", "BAD 400"),
    V("te_gzip", POST "Transfer-Encoding: gzip\r\n" END, "BAD 400"),
    V("te_unknown", POST "Transfer-Encoding: xchunked\r\n" END, "BAD 400"),
    V("te_quoted", POST "Transfer-Encoding: \"chunked\"\r\n" END, "BAD 400"),
    V("te_parameter", POST "Transfer-Encoding: chunked;q=1\r\n" END, "BAD 400"),
    V("te_vertical_tab", POST "Transfer-Encoding: \vchunked\r\n" END, "BAD 400"),
    V("te_empty_and_cl", POST "Transfer-Encoding:\r\nContent-Length: 1\r\n" END "a", "BAD 400"),
    V("te_empty", POST "Transfer-Encoding:\r\n" END, "BAD 400"),
    V("te_in_1.0", "POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n" END "0\r\n\r\n",
      "BAD 400"),
    V("te_in_1.0_kept_alive",
      "POST / HTTP/1.0\r\n" HOST "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n" END
      "0\r\n\r\n",
      "BAD 400"),
    V("te_space_before_colon", POST "Transfer-Encoding : chunked\r\n" END "0\r\n\r\n", "BAD 400"),

/* Chunks. */
#define CHUNKED POST "Transfer-Encoding: chunked\r\n" END
#define BEGUN "HEAD POST / HTTP/1.1 host=h body=chunked keep\n"
    V("chunk_extension_dropped", CHUNKED "1;a=b;c=\"d\"\r\nx\r\n0;z\r\n\r\n",
      BEGUN "BODY x\nEND\nQUIET\n"),
    V("chunk_trailer_dropped", CHUNKED "1\r\nx\r\n0\r\nContent-Length: 5\r\nA: b\r\n\r\n",
      BEGUN "BODY x\nEND\nQUIET\n"),
    V("chunk_upper_case_hex", CHUNKED "A\r\n0123456789\r\n0\r\n\r\n",
      BEGUN "BODY 0123456789\nEND\nQUIET\n"),
    V("chunk_few_zeros", CHUNKED "0001\r\nx\r\n000\r\n\r\n", BEGUN "BODY x\nEND\nQUIET\n"),
    V("chunk_many_zeros", CHUNKED TEN("00") "1\r\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_size_2^63", CHUNKED "8000000000000000\r\n", BEGUN "BAD 413"),
    V("chunk_size_2^64-1", CHUNKED "ffffffffffffffff\r\n", BEGUN "BAD 413"),
    V("chunk_size_2^64", CHUNKED "10000000000000000\r\n", BEGUN "BAD 400"),
    V("chunk_size_empty", CHUNKED "\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_size_negative", CHUNKED "-1\r\n", BEGUN "BAD 400"),
    V("chunk_size_0x", CHUNKED "0x1\r\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_size_space_before", CHUNKED " 1\r\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_size_space_after", CHUNKED "1 \r\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_size_junk", CHUNKED "1g\r\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_size_underscore", CHUNKED "1_0\r\n", BEGUN "BAD 400"),
    V("chunk_bare_lf_after_size", CHUNKED "1\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_bare_cr_after_size", CHUNKED "1\rx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_bare_lf_in_extension", CHUNKED "1;a\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_bare_cr_in_extension", CHUNKED "1;a\rb\r\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_nul_in_extension", CHUNKED "1;\0\r\nx\r\n0\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_bare_lf_after_data", CHUNKED "1\r\nx\n0\r\n\r\n", BEGUN "BODY x\nBAD 400"),
    V("chunk_data_too_long", CHUNKED "1\r\nxy\r\n0\r\n\r\n", BEGUN "BODY x\nBAD 400"),
    V("chunk_no_line_after_data", CHUNKED "1\r\nx0\r\n\r\n", BEGUN "BODY x\nBAD 400"),
    V("chunk_bare_lf_at_end", CHUNKED "0\r\n\n", BEGUN "BAD 400"),
    V("chunk_bare_cr_at_end", CHUNKED "0\r\n\rX", BEGUN "BAD 400"),
    V("trailer_without_colon", CHUNKED "0\r\nabc\r\n\r\n", BEGUN "BAD 400"),
    V("trailer_folded", CHUNKED "0\r\na: b\r\n c\r\n\r\n", BEGUN "BAD 400"),
    V("trailer_space_before_colon", CHUNKED "0\r\na : b\r\n\r\n", BEGUN "BAD 400"),
    V("trailer_empty_name", CHUNKED "0\r\n: b\r\n\r\n", BEGUN "BAD 400"),
    V("trailer_control", CHUNKED "0\r\na: \x01\r\n\r\n", BEGUN "BAD 400"),
    V("chunk_extensions_without_end", CHUNKED "1;" HUNDRED(TEN("aaaaa")), BEGUN "BAD 413"),
    V("trailers_without_end", CHUNKED "0\r\n" HUNDRED(TEN("a: bbbbb\r\n")), BEGUN "BAD 431"),

    /* Field lines. */
    V("bare_lf_after_field", "GET / HTTP/1.1\r\nHost: h\nA: b\r\n" END, "BAD 400"),
    V("bare_lf_after_request_line", "GET / HTTP/1.1\nHost: h\r\n" END, "BAD 400"),
    V("bare_lf_at_end", "GET / HTTP/1.1\r\n" HOST "\n", "BAD 400"),
    V("bare_cr_in_value", "GET / HTTP/1.1\r\n" HOST "A: b\rC: d\r\n" END, "BAD 400"),
    V("bare_cr_in_name", "GET / HTTP/1.1\r\n" HOST "A\rC: d\r\n" END, "BAD 400"),
    V("bare_cr_then_end", "GET / HTTP/1.1\r\n" HOST "\rX: y\r\n" END, "BAD 400"),
    V("double_cr", "GET / HTTP/1.1\r\n" HOST "A: b\r\r\n" END, "BAD 400"),
    V("fold_with_space", "GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n" END, "BAD 400"),
    V("fold_with_tab", "GET / HTTP/1.1\r\n" HOST "A: b\r\n\tc\r\n" END, "BAD 400"),
    V("fold_of_transfer_encoding", POST "Transfer-Encoding:\r\n chunked\r\n" END, "BAD 400"),
    V("space_after_request_line", "GET / HTTP/1.1\r\n Host: h\r\n" END, "BAD 400"),
    V("space_only_line", "GET / HTTP/1.1\r\n" HOST " \r\n" END, "BAD 400"),
    V("control_0x01_in_value", "GET / HTTP/1.1\r\n" HOST "A: \x01\r\n" END, "BAD 400"),
    V("nul_in_value", "GET / HTTP/1.1\r\n" HOST "A: \0\r\n" END, "BAD 400"),
    V("delete_in_value", "GET / HTTP/1.1\r\n" HOST "A: \x7f\r\n" END, "BAD 400"),
    V("nul_in_name", "GET / HTTP/1.1\r\n" HOST "A\0B: c\r\n" END, "BAD 400"),
    V("high_byte_in_name", "GET / HTTP/1.1\r\n" HOST "A\xe4: c\r\n" END, "BAD 400"),
    V("line_without_colon", "GET / HTTP/1.1\r\n" HOST "abc\r\n" END, "BAD 400"),
    V("empty_name", "GET / HTTP/1.1\r\n" HOST ": x\r\n" END, "BAD 400"),
    V("space_before_colon", "GET / HTTP/1.1\r\n" HOST "A : x\r\n" END, "BAD 400"),
    V("high_bytes_and_tab_in_value", "GET / HTTP/1.1\r\n" HOST "A: \xc3\xa4\t\xff\r\n" END,
      GOOD("/")),
    V("value_empty", "GET / HTTP/1.1\r\n" HOST "A:\r\nB: \t \r\n" END, GOOD("/")),

    /* Connection. */
    V("nominates_host", "GET / HTTP/1.1\r\n" HOST "Connection: host\r\n" END, "BAD 400"),
    V("nominates_cl", POST "Content-Length: 1\r\nConnection: close, content-length\r\n" END "a",
      "BAD 400"),
    V("nominates_te", POST "Connection: Transfer-Encoding\r\n" END, "BAD 400"),
    V("nominates_authorization", "GET / HTTP/1.1\r\n" HOST "Connection: authorization\r\n" END,
      "BAD 400"),
    V("nominates_cookie", "GET / HTTP/1.1\r\n" HOST "Connection: cookie\r\n" END, "BAD 400"),
    V("connection_not_a_token", "GET / HTTP/1.1\r\n" HOST "Connection: a b\r\n" END, "BAD 400"),
    V("connection_too_many", "GET / HTTP/1.1\r\n" HOST "Connection: " TEN("a,b,c,d,") "\r\n" END,
      "BAD 400"),
    V("connection_close", "GET / HTTP/1.1\r\n" HOST "Connection: x, Close\r\n" END,
      "HEAD GET / HTTP/1.1 host=h body=none\nEND\n"),
    V("connection_keep_alive_in_1.0", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n" END,
      "HEAD GET / HTTP/1.0 host= body=none\nEND\n"),
    V("upgrade",
      "GET / HTTP/1.1\r\n" HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n" END "early",
      "HEAD GET / HTTP/1.1 host=h body=none keep upgrade\nEND\nMORE"),
    V("upgrade_not_nominated", "GET / HTTP/1.1\r\n" HOST "Upgrade: websocket\r\n" END, GOOD("/")),
    V("upgrade_in_1.0", "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" END,
      "HEAD GET / HTTP/1.0 host= body=none\nEND\n"),
    V("upgrade_h2c",
      "GET / HTTP/1.1\r\n" HOST "Connection: upgrade, http2-settings\r\n"
      "Upgrade: h2c\r\nHTTP2-Settings: AA\r\n" END,
      GOOD("/")),
    V("expect_continue", POST "Expect: 100-Continue\r\nContent-Length: 1\r\n" END,
      "HEAD POST / HTTP/1.1 host=h body=length:1 keep expect\nMORE\n"),
    V("expect_without_body", "GET / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n" END, GOOD("/")),
    V("expect_in_1.0", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n" END,
      "HEAD POST / HTTP/1.0 host= body=length:1\nMORE\n"),
    V("expect_unknown", POST "Expect: miracles\r\nContent-Length: 1\r\n" END, "BAD 417"),
    V("max_forwards_malformed", "OPTIONS * HTTP/1.1\r\n" HOST "Max-Forwards: -1\r\n" END,
      "BAD 400"),

    /* Sizes. */
    V("field_of_9_KB", "GET / HTTP/1.1\r\n" HOST "A: " TEN(HUNDRED("123456789")) "\r\n" END,
      "BAD 431"),
    V("head_of_40_KB", "GET / HTTP/1.1\r\n" HOST TEN("A: " HUNDRED(TEN("1234")) "\r\n") END,
      GOOD("/")),
    V("head_of_70_KB", "GET / HTTP/1.1\r\n" HOST TEN("A: " HUNDRED(TEN("1234567")) "\r\n") END,
      "BAD 431 the head is too long"),
    V("fields_150",
      "GET / HTTP/1.1\r\n" HOST HUNDRED("A: b\r\n") TEN("A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n")
          END,
      "BAD 431 there are too many fields"),
    V("fields_101", "GET / HTTP/1.1\r\n" HOST HUNDRED("A: b\r\n") END,
      "BAD 431 there are too many fields"),
    V("fields_100", "GET / HTTP/1.1\r\n" HUNDRED("A: b\r\n") END, "BAD 400 there is no Host"),
    V("target_of_10_KB", GET("/" TEN(HUNDRED("1234567890"))), "BAD 414"),
};

#define DONE "END\n"

#define CHUNKS OK "Transfer-Encoding: chunked\r\n" END
#define CHUNKS_BEGUN "HEAD 200 HTTP/1.1 [OK] body=chunked keep\n"

static const struct vector responses[] = {
    V("response_length", OK "Content-Length: 2\r\n" END "ab",
      "HEAD 200 HTTP/1.1 [OK] body=length:2 keep\nBODY ab\n" DONE),
    V("response_chunked", OK "Transfer-Encoding: chunked\r\n" END "2\r\nab\r\n0\r\n\r\n",
      "HEAD 200 HTTP/1.1 [OK] body=chunked keep\nBODY ab\n" DONE),
    V("response_until_close", OK END "ab", "HEAD 200 HTTP/1.1 [OK] body=close\nBODY ab\n" DONE),
    V("response_cut_in_head", OK "Conte",
      "BAD 502 the connection was closed in the middle of a head"),
    V("response_cut_in_body", OK "Content-Length: 3\r\n" END "ab",
      "HEAD 200 HTTP/1.1 [OK] body=length:3 keep\nBODY ab\nBAD 502"),
    V("response_cut_in_chunks", OK "Transfer-Encoding: chunked\r\n" END "2\r\nab\r\n",
      "HEAD 200 HTTP/1.1 [OK] body=chunked keep\nBODY ab\nBAD 502"),
    V("response_nothing", "", "QUIET"),
    V("status_without_reason", "HTTP/1.1 204\r\n" END,
      "HEAD 204 HTTP/1.1 [] body=none keep\n" DONE),
    V("status_empty_reason", "HTTP/1.1 204 \r\n" END, "HEAD 204 HTTP/1.1 [] body=none keep\n" DONE),
    V("reason_nul", "HTTP/1.1 204 a\0b\r\n" END, "HEAD 204 HTTP/1.1 [] body=none keep\n" DONE),
    V("reason_control", "HTTP/1.1 204 a\x01\r\n" END, "HEAD 204 HTTP/1.1 [] body=none keep\n" DONE),
    V("reason_high_bytes", "HTTP/1.1 204 \xc3\xa4\r\n" END,
      "HEAD 204 HTTP/1.1 [\xc3\xa4] body=none keep\n" DONE),
    V("reason_bare_cr", "HTTP/1.1 204 a\rb: c\r\n" END, "BAD 502"),
    V("status_099", "HTTP/1.1 099 x\r\n" END, "BAD 502"),
    V("status_999", "HTTP/1.1 999 x\r\n" END, "BAD 502"),
    V("status_600", "HTTP/1.1 600 x\r\n" END, "BAD 502"),
    V("status_two_digits", "HTTP/1.1 20 OK\r\n" END, "BAD 502"),
    V("status_four_digits", "HTTP/1.1 2000 OK\r\n" END, "BAD 502"),
    V("status_two_spaces", "HTTP/1.1  200 OK\r\n" END, "BAD 502"),
    V("status_version_0.9", "HTTP/0.9 200 OK\r\n" END, "BAD 502"),
    V("status_version_2.0", "HTTP/2.0 200 OK\r\n" END, "BAD 502"),
    V("status_rtsp", "RTSP/1.0 200 OK\r\n" END, "BAD 502"),
    V("status_ice", "ICE/1.0 200 OK\r\n" END, "BAD 502"),
    V("response_headless", "hello", "BAD 502"),
    V("response_leading_crlf", "\r\n" OK END, "BAD 502"),
    V("response_cl_te", OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" END, "BAD 502"),
    V("response_cl_list", OK "Content-Length: 1, 1\r\n" END "a", "BAD 502"),
    V("response_cl_twice", OK "Content-Length: 1\r\nContent-Length: 1\r\n" END "a", "BAD 502"),
    V("response_cl_plus", OK "Content-Length: +1\r\n" END "a", "BAD 502"),
    V("response_cl_too_large", OK "Content-Length: 18446744073709551615\r\n" END "a", "BAD 502"),
    V("response_cl_empty", OK "Content-Length:\r\n" END, "BAD 502"),
    V("response_cl_leading_zero", OK "Content-Length: 010\r\n" END "0123456789", "BAD 502"),
    V("response_cl_minus", OK "Content-Length: -1\r\n" END, "BAD 502"),
    V("response_cl_hex", OK "Content-Length: 0x1\r\n" END "a", "BAD 502"),
    V("response_cl_twice_differing", OK "Content-Length: 1\r\nContent-Length: 2\r\n" END "ab",
      "BAD 502"),
    V("response_cl_2^64", OK "Content-Length: 18446744073709551616\r\n" END, "BAD 502"),
    V("response_cl_space_before_colon", OK "Content-Length : 1\r\n" END "a", "BAD 502"),
    V("response_te_cl", OK "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" END, "BAD 502"),
    V("response_te_empty_and_cl", OK "Transfer-Encoding:\r\nContent-Length: 1\r\n" END "a",
      "BAD 502"),
    V("response_te_comma_chunked", OK "Transfer-Encoding: ,chunked\r\n" END, "BAD 502"),
    V("response_te_unknown", OK "Transfer-Encoding: xchunked\r\n" END, "BAD 502"),
    V("response_te_parameter", OK "Transfer-Encoding: chunked;q=1\r\n" END, "BAD 502"),
    V("response_te_in_1.0_kept_alive",
      "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n" END, "BAD 502"),
    V("response_chunk_size_2^64-1", CHUNKS "ffffffffffffffff\r\n", CHUNKS_BEGUN "BAD 502"),
    V("response_chunk_size_2^64", CHUNKS "10000000000000000\r\n", CHUNKS_BEGUN "BAD 502"),
    V("response_chunk_size_negative", CHUNKS "-1\r\n", CHUNKS_BEGUN "BAD 502"),
    V("response_chunk_size_junk", CHUNKS "1g\r\n", CHUNKS_BEGUN "BAD 502"),
    V("response_chunk_bare_lf", CHUNKS "1\nx\n0\n\n", CHUNKS_BEGUN "BAD 502"),
    V("response_chunk_data_too_long", CHUNKS "1\r\nxy\r\n0\r\n\r\n",
      CHUNKS_BEGUN "BODY x\nBAD 502"),
    V("response_line_without_colon", OK "abc\r\n" END, "BAD 502"),
    V("response_space_before_colon", OK "A : b\r\n" END, "BAD 502"),
    V("response_control_in_value", OK "A: \x01\r\n" END, "BAD 502"),
    V("response_te_chunked_twice", OK "Transfer-Encoding: chunked, chunked\r\n" END, "BAD 502"),
    V("response_te_twice", OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END,
      "BAD 502"),
    V("response_te_identity", OK "Transfer-Encoding: identity\r\n" END, "BAD 502"),
    V("response_te_chunked_gzip", OK "Transfer-Encoding: chunked, gzip\r\n" END, "BAD 502"),
    V("response_te_gzip_chunked", OK "Transfer-Encoding: gzip, chunked\r\n" END, "BAD 502"),
    V("response_te_empty", OK "Transfer-Encoding:\r\n" END, "BAD 502"),
    V("response_te_in_1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n" END, "BAD 502"),
    V("response_fold", OK "A: b\r\n c\r\n" END, "BAD 502"),
    V("response_bare_lf", "HTTP/1.1 200 OK\nContent-Length: 0\r\n" END, "BAD 502"),
    V("response_nul_in_value", OK "A: \0\r\n" END, "BAD 502"),
    V("response_nominates_cl", OK "Content-Length: 0\r\nConnection: content-length\r\n" END,
      "BAD 502"),
    V("interim_100", "HTTP/1.1 100 Continue\r\n" END "HTTP/1.1 204 x\r\n" END,
      "HEAD 100 HTTP/1.1 [Continue] body=none keep interim\nEND\n"
      "HEAD 204 HTTP/1.1 [x] body=none keep\n" DONE),
    V("interim_103", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n" END "HTTP/1.1 204 x\r\n" END,
      "HEAD 103 HTTP/1.1 [Early Hints] body=none keep interim\nEND\n"
      "HEAD 204 HTTP/1.1 [x] body=none keep\n" DONE),
    V("interim_104_with_cl",
      "HTTP/1.1 104 x\r\nContent-Length: 5\r\n" END "HTTP/1.1 200 OK\r\n" END,
      "BAD 502 an interim response announces a body"),
    V("interim_199_unlisted", "HTTP/1.1 198 x\r\n" END "HTTP/1.1 204 x\r\n" END,
      "HEAD 198 HTTP/1.1 [x] body=none keep interim\nEND\n"
      "HEAD 204 HTTP/1.1 [x] body=none keep\n" DONE),
    V("interim_chunked", "HTTP/1.1 100 x\r\nTransfer-Encoding: chunked\r\n" END, "BAD 502"),
    V("switch_unasked", "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: a\r\n" END, "BAD 502"),
    V("status_204_with_cl", "HTTP/1.1 204 x\r\nContent-Length: 5\r\n" END,
      "HEAD 204 HTTP/1.1 [x] body=none keep\n" DONE),
    V("status_204_chunked", "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n" END,
      "HEAD 204 HTTP/1.1 [x] body=none keep\n" DONE),
    V("status_304_with_cl", "HTTP/1.1 304 x\r\nContent-Length: 5\r\n" END,
      "HEAD 304 HTTP/1.1 [x] body=none keep\n" DONE),
    V("response_close", OK "Content-Length: 0\r\nConnection: close\r\n" END,
      "HEAD 200 HTTP/1.1 [OK] body=length:0\n" DONE),
    V("response_1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n" END,
      "HEAD 200 HTTP/1.0 [OK] body=length:0\n" DONE),
    V("response_1.0_keep_alive",
      "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n" END,
      "HEAD 200 HTTP/1.0 [OK] body=length:0 keep\n" DONE),
    V("response_field_of_20_KB", OK "A: " HUNDRED(HUNDRED("12")) "\r\n" END, "BAD 502"),
    V("response_150_fields",
      OK HUNDRED("A: b\r\n") TEN("A: b\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n") END, "BAD 502"),
};

static struct trace whole, cut;

static void expect(const struct trace_input *input, const struct vector *v)
{
    trace_run(&whole, input, v->in, v->in.n, 1);
    if (strncmp(whole.text, v->says, strlen(v->says)) != 0)
        fail_msg("said:\n%.300s\nexpected:\n%s", whole.text, v->says);

    trace_run(&cut, input, v->in, 1, 1);
    assert_string_equal(whole.text, cut.text);
    /* At every place for what is short, at some thousand places for what is long. */
    size_t stride = v->in.n / 1000 + 1;
    for (size_t at = 0; at < v->in.n; at += stride) {
        trace_run(&cut, input, v->in, at ? at : 1, v->in.n);
        assert_string_equal(whole.text, cut.text);
    }
}

static void test_request(void **state)
{
    struct trace_input input = {.kind = HTTP_KIND_REQUEST, .limits = HTTP_LIMITS_REQUEST};
    expect(&input, *state);
}

static void test_response(void **state)
{
    struct trace_input input = {
        .kind = HTTP_KIND_RESPONSE, .limits = HTTP_LIMITS_RESPONSE, .eof = true};
    expect(&input, *state);
}

int main(void)
{
    struct CMUnitTest tests[ARRAY_LEN(requests) + ARRAY_LEN(responses)];
    size_t n = 0;
    memset(tests, 0, sizeof tests);
    for (size_t i = 0; i < ARRAY_LEN(requests); i++, n++) {
        tests[n].name = requests[i].name;
        tests[n].test_func = test_request;
        tests[n].initial_state = (void *)(uintptr_t)&requests[i];
    }
    for (size_t i = 0; i < ARRAY_LEN(responses); i++, n++) {
        tests[n].name = responses[i].name;
        tests[n].test_func = test_response;
        tests[n].initial_state = (void *)(uintptr_t)&responses[i];
    }
    return cmocka_run_group_tests_name("http_vectors", tests, NULL, NULL);
}
