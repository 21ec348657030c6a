#!/usr/bin/env python3
# Written for onelog and part of it, under its licence (MIT OR Apache-2.0); no third party code or data in it.
# The records it makes are pinned by digest: a change of one byte in them is a change of every figure measured with them.
"""Deterministic workloads shaped on five real systems (own code; shapes and sizes measured in the systems of REQUIREMENTS.md).
usage: workload.py W1real|W1seed|W2|W3|W4 N [seed]  -> JSONL on stdout: {"t":ms,"topic":..,"key":..,"headers":{},"value":"<json text>"}
       workload.py golden                            -> counts, bytes, sha256, murmur2 partition histogram for fixed N
RNG: splitmix64, state0 = fnv1a64(name) XOR seed (default 1). below(n)=next()%n. uuid()=two next(), version/variant bits set."""
import json, sys, hashlib, datetime as dt
M = (1 << 64) - 1
def fnv(s):
    h = 0xcbf29ce484222325
    for b in s.encode(): h = ((h ^ b) * 0x100000001b3) & M
    return h
class R:
    def __init__(s, name, seed=1): s.s = fnv(name) ^ (seed & M)
    def next(s):
        s.s = (s.s + 0x9E3779B97F4A7C15) & M; z = s.s
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
        return z ^ (z >> 31)
    def below(s, n): return s.next() % n
    def pick(s, a): return a[s.below(len(a))]
    def uuid(s):
        a = (s.next() & ~0xF000) | 0x4000; b = (s.next() & ((1 << 62) - 1)) | (1 << 63)
        h = f"{a:016x}{b:016x}"; return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
def j(o): return json.dumps(o, separators=(",", ":"))
def iso(ms): return dt.datetime.fromtimestamp(ms / 1000, dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"
T0 = 1757681040792  # 2025-09-12T12:44:00.792Z, first event of the logged session
# ---- W1 survey. real = the logged session: 17 events, page offsets/answers per page as logged
OFF = [15777, 26617, 30645, 39783, 44601, 47117, 58636, 70179]; ANS = [3, 3, 1, 4, 2, 1, 1, 2]; DONE = 70219
LABEL = ["Yes", "No", "Agree", "Very Satisfied", "Somewhat Satisfied", "Brand Alpha 2008 - 2010", "Brand Beta", "Option: Classic Edition", "Neither Agree nor Disagree"]
def w1(name, n, seed):
    r = R(name, seed); ten = [r.uuid() for _ in range(4)]; sur = [r.uuid() for _ in range(8)]; buck = [r.uuid() for _ in range(64)]
    pages = [[r.uuid() for _ in range(8)] for _ in sur]; real = name == "W1real"
    def ans():
        q = r.uuid()
        return {"textValue": str(r.below(90) + 10), "questionId": q} if r.below(6) == 0 else {"choices": [r.pick(LABEL) for _ in range(1 + (r.below(8) == 0))], "questionId": q}
    for i in range(n):
        si = i % 8; t, s, sid = ten[i % 4], sur[si], r.uuid(); base = T0 + i * 7
        def ev(off, typ, topic, key, pl):
            v = {"eventId": r.uuid(), "type": typ, "version": 1, "occurredAt": iso(base + off), "tenantId": t, "surveyId": s, "sessionId": sid, "payload": pl}
            return {"t": i * 7 + off, "topic": topic, "key": key, "headers": {"eventType": typ, "tenantId": t, "version": "1"}, "value": j(v)}
        yield ev(0, "session.started", "runtime.sessions", sid, {"surveyId": s, "sessionId": sid})
        if real: plan = [(OFF[p], p, ANS[p], p != 6) for p in range(8)]            # 8 answer.upserted, 7 quota.reserved
        else: plan = [(4500 * (k + 1), k * 6 // 15, 1, k in (0, 3, 5, 8, 10, 13)) for k in range(15)]  # 15 answers, 6 pages, 6 quotas
        for off, p, na, q in plan:
            yield ev(off, "answer.upserted", "runtime.answers", sid, {"pageId": pages[si][p], "answers": [ans() for _ in range(na)], "sessionId": sid})
            if q:
                b = buck[(si * 8 + p) % 64]; yield ev(off, "quota.reserved", "runtime.quota", b, {"bucketId": b, "sessionId": sid})
        yield ev(DONE, "session.completed", "runtime.sessions", sid, {"surveyId": s, "sessionId": sid})
# ---- W2 EventFlow: 4 types uniform; 1% exact duplicates of the previous event; 2% invalid (purchase, no amount) -> DLQ
def w2(name, n, seed):
    r = R(name, seed); prev = None
    for i in range(n):
        c = r.below(100)
        if c == 0 and prev: yield {**prev, "t": i}; continue
        ty = r.pick(["purchase", "user_signup", "page_view", "custom"])
        if ty == "purchase": p = {"amount": (1000 + r.below(499000)) / 100, "product_id": f"prod_{1000 + r.below(9000)}", "currency": r.pick(["USD", "EUR", "GBP"])}
        elif ty == "user_signup": p = {"email": f"user{1000 + r.below(9000)}@example.com", "source": r.pick(["web", "mobile", "api"])}
        elif ty == "page_view": p = {"url": f"/page/{1 + r.below(100)}", "referrer": r.pick(["google", "direct", "social"])}
        else: p = {"action": r.pick(["click", "scroll", "hover"]), "value": 1 + r.below(100)}
        if c in (1, 2): ty, p = "purchase", {"product_id": "prod_0000"}
        v = {"event_id": r.uuid(), "event_type": ty, "user_id": f"user_{1 + r.below(1000)}", "timestamp": iso(T0 + i)[:-1], "properties": p}
        prev = {"t": i, "topic": "event_queue", "key": v["user_id"], "headers": {}, "value": json.dumps(v)}  # ", " separators as python writes them
        yield prev
# ---- W3 engagement CDC: 8 contents (hot keys), 1000 users, play/pause/finish/click 40/25/20/15
def w3(name, n, seed):
    r = R(name, seed); con = [r.uuid() for _ in range(8)]; usr = [r.uuid() for _ in range(1000)]
    for i in range(n):
        c, u = r.pick(con), r.pick(usr); x = r.below(100); ty = "play" if x < 40 else "pause" if x < 65 else "finish" if x < 85 else "click"
        d = r.pick(["ios", "android", "web-chrome", "web-safari", "web-firefox", "web-edge"]); web = d.startswith("web")
        dur = 1000 + r.below(14000 if web else 7000) if ty in ("play", "pause") else 30000 + r.below(150000 if web else 90000) if ty == "finish" else None
        v = {"content_id": c, "user_id": u, "event_type": ty, "event_ts": iso(T0 + i)[:-1].replace("T", " "), "duration_ms": dur, "device": d,
             "raw_payload": {"session_id": r.uuid(), "ip_address": f"10.{r.below(256)}.{r.below(256)}.{r.below(256)}", "user_agent": d,
                             "referrer": r.pick(["https://google.com", "https://twitter.com", "https://linkedin.com", "direct", None]),
                             "screen_resolution": r.pick(["1920x1080", "1366x768", "375x667", "414x896", "360x640"])}, "id": 51 + i}
        yield {"t": i, "topic": "engagement-events", "key": c, "headers": {}, "value": json.dumps(v)}
# ---- W4 booking: 80% reads / 20% writes closed loop; writes become events; 4 events, 250 users; 10% of writes waitlist, 10% cancel
def w4(name, n, seed):
    r = R(name, seed); evs = [r.uuid() for _ in range(4)]; usr = [r.uuid() for _ in range(250)]; price = [99.99, 149.99, 25.0, 250.0]
    for i in range(n):
        k = r.below(4); u = usr[i % 250]
        if r.below(100) < 80: yield {"t": i, "op": "read", "topic": "bookings", "key": evs[k]}; continue
        x = r.below(10); q = 1 + r.below(3); ty = "booking.cancelled" if x == 0 else "waitlist.joined" if x == 1 else "booking.confirmed"
        v = {"type": ty, "booking_id": r.uuid(), "user_id": u, "event_id": evs[k], "quantity": q, "total_amount": f"{price[k] * q:.2f}",
             "booking_reference": f"EVT{r.next() % 36**8:012d}", "status": "cancelled" if x == 0 else "confirmed", "created_at": iso(T0 + i)}
        yield {"t": i, "op": "write", "topic": "bookings", "key": evs[k], "headers": {"type": ty}, "value": j(v)}
GEN = {"W1real": w1, "W1seed": w1, "W2": w2, "W3": w3, "W4": w4}
def murmur2(d):  # Kafka default partitioner: (murmur2(key) & 0x7fffffff) % partitions
    n, h, m, i = len(d), (0x9747b28c ^ len(d)) & 0xffffffff, 0x5bd1e995, 0
    while n - i >= 4:
        k = int.from_bytes(d[i:i + 4], "little"); k = k * m & 0xffffffff; k = (k ^ k >> 24) * m & 0xffffffff; h = (h * m & 0xffffffff) ^ k; i += 4
    e = n - i
    if e >= 3: h ^= d[i + 2] << 16
    if e >= 2: h ^= d[i + 1] << 8
    if e >= 1: h = (h ^ d[i]) * m & 0xffffffff
    h = (h ^ h >> 13) * m & 0xffffffff
    return h ^ h >> 15
if __name__ == "__main__":
    a = sys.argv[1:]
    if a[:1] == ["golden"]:
        for w, n in (("W1real", 100), ("W1seed", 100), ("W2", 1000), ("W3", 1000), ("W4", 1000)):
            H = hashlib.sha256(); c = 0; vb = []; P = {}; seen = set(); ex = None
            for e in GEN[w](w, n, 1):
                H.update((j(e) + "\n").encode()); c += 1
                if "value" in e:
                    vb.append(len(e["value"])); p = (murmur2(e["key"].encode()) & 0x7fffffff) % 3
                    P.setdefault(e["topic"], [0, 0, 0])[p] += 1; seen.add(e["value"])
            print(w, "n", n, "lines", c, "values", len(vb), "distinct", len(seen), "bytes", sum(vb), "min/mean/max", min(vb), round(sum(vb) / len(vb), 1), max(vb), "sha256", H.hexdigest()[:16], "parts%3", P)
    else:
        for e in GEN[a[0]](a[0], int(a[1]), int(a[2]) if len(a) > 2 else 1): print(j(e))
