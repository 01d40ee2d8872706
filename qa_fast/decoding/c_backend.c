/* Span decoding on a CPU: O(N) per chunk, exact. c_backend.py loads this file's library and says what
 * the steps are; reference.py says what the results mean.
 *
 * Plain loops over 16 independent lanes, which compilers turn into vector instructions. The comparisons
 * are written so that a NaN loses, as the maxima of vector units have it.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One machine code per level of x86-64, chosen when the library is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EVERY_CPU __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FOR_EVERY_CPU
#endif
#if defined(_MSC_VER)
#define EXPORT __declspec(dllexport)
#define INLINE static __forceinline
#define restrict __restrict
#else
#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#endif

/* Scratch arrays lie in one piece of memory; AddressSanitizer is to see when one is left for the next. */
enum { ALIGNED = 16 };
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
enum { GAP = 64 };
#define FORBID(from, bytes) __asan_poison_memory_region(from, (size_t)(bytes))
#else
enum { GAP = 0 };
#define FORBID(from, bytes) (void)0
#endif

enum { LANES = 16 };
enum { FLOAT32, FLOAT16, BFLOAT16 };
enum { PROBABILITY, SHARED, LOGIT };
/* Statuses: 0, or NO_MEMORY, or 1 + c where chunk c is the first with a range or a null position outside its row. */
enum { NO_MEMORY = -1 };

/* One call of decode_spans; C chunks, Q questions, k = top_k. Its first part is the _Call of c_backend.py, field
 * for field; the rest is filled in here. */
typedef struct {
    const void *start_logits, *end_logits; /* flat */
    const uint8_t *mask;                   /* flat, or NULL */
    const int64_t *row_offset;             /* [C], or NULL: row_stride tokens per chunk */
    const int32_t *context;                /* [C, 2] */
    const int32_t *question;               /* [C], or NULL: a question per chunk */
    const int32_t *context_offset;         /* [C], or NULL: no span is the same as another */
    const int32_t *null_position;          /* [C] */
    float *score;                          /* [Q, k] */
    int32_t *start, *end, *row;            /* [Q, k] */
    float *null_score;                     /* [Q] */
    uint8_t *nonfinite;                    /* [Q] */
    int64_t n_logits, row_stride, n_chunks, n_questions, top_k;
    int64_t max_answer_len; /* 0: no limit */
    int64_t dtype, scoring, null_in_spans;

    /* Of each chunk its best spans by the sum of their logits: entries list_at[c] to list_at[c + 1] - 1. A list
     * has room for no more spans than the chunk holds, unless it is a row of the results. */
    int64_t *list_at; /* [C + 1] */
    float *total;
    int32_t *list_start, *list_end;
    float *log_norm;          /* [C, 2] log-sum-exp of the start and of the end logits */
    float *null_total;        /* [C] sum of logits at the null position; +inf: it has none */
    uint8_t *chunk_nonfinite; /* [C] */
} Call;

INLINE float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint32_t to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Integers in the order of the values, 0.0 and -0.0 equal; not for NaN. */
INLINE int32_t ordered(float value)
{
    int32_t bits = (int32_t)to_bits(value + 0.0f);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

/* The value of an `ordered` integer. */
INLINE float unordered(int32_t key) { return from_bits((uint32_t)(key ^ (key >> 31 & 0x7fffffff))); }

INLINE float greater(float a, float b) { return a > b ? a : b; }

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

INLINE int64_t row_of(const Call *call, int64_t chunk)
{
    return call->row_offset ? call->row_offset[chunk] : chunk * call->row_stride;
}

/* The tokens of a chunk among which its spans are, and how many of them a span may have. */
typedef struct {
    int64_t low, n, window;
} Extent;

INLINE Extent extent_of(const Call *call, int64_t chunk)
{
    int64_t low = call->context[2 * chunk], high = call->context[2 * chunk + 1], null = call->null_position[chunk];
    if (call->null_in_spans && null >= 0) {
        low = null < low ? null : low;
        high = null >= high ? null + 1 : high;
    }
    int64_t n = high - low;
    return (Extent){low, n, call->max_answer_len && call->max_answer_len < n ? call->max_answer_len : n};
}

/* All spans of at most `window` of n tokens. */
INLINE int64_t spans_of(Extent extent) { return extent.n * extent.window - extent.window * (extent.window - 1) / 2; }

/* ---- one chunk ------------------------------------------------------------------------------------ */

/* n logits from position `at` as float32, then -inf up to `size`. */
INLINE void load(const void *logits, int64_t dtype, int64_t at, int64_t n, int64_t size, float *restrict out)
{
    if (n == 0) {
        /* `logits` may be a null pointer. */
    } else if (dtype == FLOAT32) {
        memcpy(out, (const float *)logits + at, n * sizeof *out);
    } else if (dtype == BFLOAT16) {
        const uint16_t *in = (const uint16_t *)logits + at;
        for (int64_t i = 0; i < n; i++)
            out[i] = from_bits((uint32_t)in[i] << 16);
    } else {
        const uint16_t *in = (const uint16_t *)logits + at;
        for (int64_t i = 0; i < n; i++) {
            /* The exponent is off by 127 - 15, which a multiplication mends, for denormals too. */
            uint32_t sign = (uint32_t)(in[i] & 0x8000) << 16, rest = (uint32_t)(in[i] & 0x7fff) << 13;
            uint32_t finite = to_bits(from_bits(rest) * 0x1p112f);
            out[i] = from_bits(sign | (rest >= 0x0f800000u ? rest | 0x7f800000u : finite));
        }
    }
    for (int64_t i = n; i < size; i++)
        out[i] = -INFINITY;
}

/* The largest of n values; n is a multiple of LANES. */
INLINE float maximum(const float *restrict x, int64_t n)
{
    float lane[LANES], peak = -INFINITY;
    for (int l = 0; l < LANES; l++)
        lane[l] = -INFINITY;
    for (int64_t i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] = greater(x[i + l], lane[l]);
    for (int l = 0; l < LANES; l++)
        peak = greater(lane[l], peak);
    return peak;
}

/* Whether one of n values is a NaN or +inf. */
INLINE int any_nonfinite(const float *restrict x, int64_t n)
{
    uint32_t found = 0;
    for (int64_t i = 0; i < n; i++)
        found |= !(x[i] < INFINITY);
    return (int)found;
}

/* log(sum(exp(x))) of n values with a finite maximum `peak`; NaN where one is NaN. */
INLINE float log_sum_exp(const float *restrict x, int64_t n, float peak)
{
    float lane[LANES] = {0}, sum = 0;
    for (int64_t i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            /* 2^t = 2^whole * 2^part; 2^part by its Taylor series, whose terms are ln(2)^n / n!. */
            float t = (x[i + l] - peak) * 1.44269504088896341f;
            t = t < -126.0f ? -126.0f : t;
            float shifted = t + 0x1.8p23f; /* rounds to an integer, which the lowest bits hold */
            float part = t - (shifted - 0x1.8p23f);
            float power = from_bits((to_bits(shifted) << 23) + 0x3f800000u);
            float p = 1.52527338e-5f;
            p = p * part + 1.54035304e-4f;
            p = p * part + 1.33335581e-3f;
            p = p * part + 9.61812911e-3f;
            p = p * part + 5.55041087e-2f;
            p = p * part + 2.40226507e-1f;
            p = p * part + 6.93147181e-1f;
            p = p * part + 1.0f;
            lane[l] += p * power;
        }
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    sum = lane[0];
    return peak + logf(sum);
}

/* best[i] = s[i] + max(e[i : i + window]), i < size, for e with size + window values; a, b: scratch, like e. */
INLINE void best_of_starts(const float *s, const float *e, int64_t size, int64_t window, float *a, float *b,
                           float *restrict best)
{
    const float *restrict source = e;
    float *restrict target = a;
    int64_t reach = size + window;
    for (int64_t covered = 1; covered < window;) {
        int64_t shift = covered < window - covered ? covered : window - covered;
        reach -= shift;
        for (int64_t i = 0; i < reach; i++)
            target[i] = greater(source[i], source[i + shift]);
        source = target;
        target = source == a ? b : a;
        covered += shift;
    }
    for (int64_t i = 0; i < size; i++)
        best[i] = s[i] + source[i];
}

/* The same for windows without end. */
INLINE void best_of_starts_unlimited(const float *s, const float *e, int64_t size, float *restrict best)
{
    float peak = -INFINITY;
    for (int64_t i = size - 1; i >= 0; i--) {
        peak = greater(e[i], peak);
        best[i] = s[i] + peak;
    }
}

/* The k-th largest of n integers, 1 <= k <= n, by bisection. */
INLINE int32_t kth_largest(const int32_t *restrict x, int64_t n, int64_t k)
{
    int32_t least = INT32_MAX, most = INT32_MIN;
    for (int64_t i = 0; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    int64_t low = least, high = most;
    while (low < high) {
        int32_t middle = (int32_t)(low + (high - low + 1) / 2), reached = 0;
        for (int64_t i = 0; i < n; i++)
            reached += x[i] >= middle;
        if (reached >= k)
            low = middle;
        else
            high = (int64_t)middle - 1;
    }
    return (int32_t)low;
}

/* A lower bound, above -inf, of the k-th best span: `best` is dealt out to classes, and k class maxima are
 * k spans. */
INLINE float floor_of(const float *restrict best, int64_t size, int64_t k, float *restrict class_max,
                        int32_t *restrict keys)
{
    int64_t classes = LANES;
    while (classes < 4 * k && 4 * classes <= size)
        classes *= 2;
    if (classes < k)
        return -FLT_MAX;
    for (int64_t i = 0; i < classes; i++)
        class_max[i] = -INFINITY;
    for (int64_t i = 0; i < size; i += LANES) {
        float *restrict to = class_max + (i & (classes - 1));
        for (int l = 0; l < LANES; l++)
            to[l] = greater(best[i + l], to[l]);
    }
    for (int64_t i = 0; i < classes; i++)
        keys[i] = ordered(class_max[i]);
    return greater(unordered(kth_largest(keys, classes, k)), -FLT_MAX);
}

/* Sort n keys; `spare` is as long. Runs of 8, then merges without branches on the keys. */
INLINE const uint64_t *sort(uint64_t *restrict keys, uint64_t *restrict spare, int64_t n)
{
    for (int64_t from = 0; from < n; from += 8) {
        int64_t to = from + 8 < n ? from + 8 : n;
        for (int64_t i = from + 1; i < to; i++) {
            uint64_t key = keys[i];
            int64_t j = i;
            for (; j > from && keys[j - 1] > key; j--)
                keys[j] = keys[j - 1];
            keys[j] = key;
        }
    }
    uint64_t *source = keys, *target = spare;
    for (int64_t run = 8; run < n; run *= 2) {
        for (int64_t from = 0; from < n; from += 2 * run) {
            int64_t middle = from + run < n ? from + run : n;
            int64_t to = from + 2 * run < n ? from + 2 * run : n;
            int64_t i = from, j = middle;
            for (int64_t at = from; at < to; at++) {
                int second = i >= middle || (j < to && source[j] < source[i]);
                target[at] = source[second ? j : i];
                j += second;
                i += !second;
            }
        }
        uint64_t *swap = source;
        source = target;
        target = swap;
    }
    return source;
}

/* Spans in the order of (start, end), and the `ordered` sums of their logits. */
typedef struct {
    int32_t *key, *start, *end;
    int64_t n, room;
} Cells;

/* Keep the k best; of equal ones the first. Returns the worst of them. */
INLINE int32_t keep_best(Cells *cells, int64_t k)
{
    int32_t kth = kth_largest(cells->key, cells->n, k);
    int64_t ties = k, kept = 0;
    for (int64_t i = 0; i < cells->n; i++)
        ties -= cells->key[i] > kth;
    for (int64_t i = 0; i < cells->n; i++) {
        int tied = cells->key[i] == kth;
        cells->key[kept] = cells->key[i];
        cells->start[kept] = cells->start[i];
        cells->end[kept] = cells->end[i];
        kept += cells->key[i] > kth || (tied && ties > 0);
        ties -= tied;
    }
    cells->n = kept;
    return kth;
}

typedef struct {
    float *s, *e, *best, *a, *b, *class_max;
    int32_t *starts, *class_keys;
    uint64_t *order, *spare;
    Cells cells;
} Scratch;

/* The best span of s and e, [size] and [size + window], padded with -inf. */
INLINE int64_t best_span(const Scratch *at, int64_t size, int32_t low, float *total, int32_t *start, int32_t *end)
{
    float peak = maximum(at->best, size);
    if (peak == -INFINITY)
        return 0;
    int64_t i = 0, j;
    while (at->best[i] != peak)
        i++;
    for (j = i; at->s[i] + at->e[j] != peak;) /* not always at the first of the largest ends */
        j++;
    *total = peak;
    *start = low + (int32_t)i;
    *end = low + (int32_t)j;
    return 1;
}

/* The same for the k best. */
INLINE int64_t best_spans(const Scratch *at, int64_t size, int64_t n, int64_t window, int64_t k, int32_t low,
                          float *total, int32_t *start, int32_t *end)
{
    const float *s = at->s, *e = at->e, *best = at->best;
    float floor = floor_of(best, size, k, at->class_max, at->class_keys);
    int64_t n_starts = 0;
    for (int64_t block = 0; block < size; block += LANES) {
        int32_t any = 0;
        for (int l = 0; l < LANES; l++)
            any |= best[block + l] >= floor;
        for (int64_t i = block; any && i < block + LANES; i++) {
            at->starts[n_starts] = (int32_t)i;
            n_starts += best[i] >= floor;
        }
    }
    Cells cells = at->cells;
    for (int64_t r = 0; r < n_starts; r++) {
        int32_t i = at->starts[r];
        if (best[i] < floor)
            continue;
        int64_t stop = n - i < window ? n : i + window;
        for (int64_t j = i; j < stop; j++) {
            float sum = s[i] + e[j];
            cells.key[cells.n] = ordered(sum);
            cells.start[cells.n] = i;
            cells.end[cells.n] = (int32_t)j;
            cells.n += sum >= floor;
        }
        if (cells.n > cells.room)
            floor = unordered(keep_best(&cells, k) + 1); /* later cells lose ties */
    }
    if (cells.n > k)
        keep_best(&cells, k);
    for (int64_t c = 0; c < cells.n; c++)
        at->order[c] = (uint64_t)(INT32_MAX - (int64_t)cells.key[c]) << 32 | (uint64_t)c;
    const uint64_t *order = sort(at->order, at->spare, cells.n);
    for (int64_t r = 0; r < cells.n; r++) {
        uint32_t c = (uint32_t)order[r];
        total[r] = s[cells.start[c]] + e[cells.end[c]];
        start[r] = low + cells.start[c];
        end[r] = low + cells.end[c];
    }
    return cells.n;
}

INLINE float log_add_exp(float a, float b)
{
    float high = greater(a, b), low = a > b ? b : a;
    return low > -INFINITY ? high + log1pf(expf(low - high)) : high;
}

INLINE void decode_chunk(const Call *call, int64_t c, const Scratch *at)
{
    int64_t row = row_of(call, c);
    int32_t first = call->context[2 * c], last = call->context[2 * c + 1], null = call->null_position[c];
    Extent extent = extent_of(call, c);
    int64_t low = extent.low, n = extent.n, window = extent.window, size = round_up(n, LANES);
    load(call->start_logits, call->dtype, row + low, n, size, at->s);
    load(call->end_logits, call->dtype, row + low, n, size + window, at->e);
    if (call->mask || (call->null_in_spans && null >= 0))
        for (int64_t i = low; i < low + n; i++) {
            int inside = first <= i && i < last && (!call->mask || call->mask[row + i]);
            if (!inside && !(call->null_in_spans && i == null))
                at->s[i - low] = at->e[i - low] = -INFINITY;
        }

    /* The null position joins the support unless it is a candidate already. */
    float null_s = -INFINITY, null_e = -INFINITY;
    call->null_total[c] = INFINITY;
    if (null >= 0) {
        load(call->start_logits, call->dtype, row + null, 1, 1, &null_s);
        load(call->end_logits, call->dtype, row + null, 1, 1, &null_e);
        call->null_total[c] = null_s + null_e; /* +inf only where the question is nonfinite */
        if (call->null_in_spans || (first <= null && null < last && (!call->mask || call->mask[row + null])))
            null_s = null_e = -INFINITY;
    }
    float peak_s = maximum(at->s, size), peak_e = maximum(at->e, size);
    int bad = (double)greater(peak_s, null_s) + greater(peak_e, null_e) > FLT_MAX;
    bad |= !(null_s < INFINITY) | !(null_e < INFINITY);
    if (call->scoring == LOGIT) {
        bad |= any_nonfinite(at->s, size) | any_nonfinite(at->e, size);
    } else {
        float norm_s = peak_s, norm_e = peak_e;
        if (peak_s > -INFINITY || any_nonfinite(at->s, size))
            norm_s = log_sum_exp(at->s, size, peak_s);
        if (peak_e > -INFINITY || any_nonfinite(at->e, size))
            norm_e = log_sum_exp(at->e, size, peak_e);
        call->log_norm[2 * c] = log_add_exp(norm_s, null_s);
        call->log_norm[2 * c + 1] = log_add_exp(norm_e, null_e);
        bad |= !(norm_s < INFINITY) | !(norm_e < INFINITY);
    }
    call->chunk_nonfinite[c] = (uint8_t)bad;
    if (bad)
        n = size = 0;
    else if (window < n)
        best_of_starts(at->s, at->e, size, window, at->a, at->b, at->best);
    else
        best_of_starts_unlimited(at->s, at->e, size, at->best);
    int64_t list = call->list_at[c], room = call->list_at[c + 1] - list, found = 0;
    int64_t k = smaller(room, spans_of(extent));
    float *total = call->total + list;
    int32_t *start = call->list_start + list, *end = call->list_end + list;
    if (k == 1)
        found = best_span(at, size, (int32_t)low, total, start, end);
    else if (k > 1)
        found = best_spans(at, size, n, window, k, (int32_t)low, total, start, end);
    for (; found < room; found++) {
        total[found] = -INFINITY;
        start[found] = end[found] = -1;
    }
}

FOR_EVERY_CPU static void decode_range(const Call *call, int64_t begin, int64_t end, const Scratch *scratch)
{
    for (int64_t c = begin; c < end; c++)
        decode_chunk(call, c, scratch);
}

/* Lists of the chunks from begin to end - 1. A status. */
EXPORT int64_t qa_fast_decode_chunks(const Call *call, int64_t begin, int64_t end)
{
    int64_t width = 1, window = 1, k = 1, spans = 1;
    for (int64_t c = begin; c < end; c++) {
        Extent extent = extent_of(call, c);
        int64_t here = spans_of(extent), wanted = smaller(call->list_at[c + 1] - call->list_at[c], here);
        width = extent.n > width ? extent.n : width;
        window = extent.window > window ? extent.window : window;
        spans = here > spans ? here : spans;
        k = wanted > k ? wanted : k;
    }
    int64_t size = round_up(width, LANES), classes = size + LANES;
    int64_t room = smaller(4 * k + 256, spans), cells = room + window;
    Scratch at = {.cells.room = room};
    struct {
        void *array; /* the address of a pointer */
        int64_t bytes;
    } parts[] = {
        {&at.order, k * (int64_t)sizeof *at.order},
        {&at.spare, k * (int64_t)sizeof *at.spare},
        {&at.s, size * (int64_t)sizeof *at.s},
        {&at.best, size * (int64_t)sizeof *at.best},
        {&at.e, (size + window) * (int64_t)sizeof *at.e},
        {&at.a, (size + window) * (int64_t)sizeof *at.a},
        {&at.b, (size + window) * (int64_t)sizeof *at.b},
        {&at.class_max, classes * (int64_t)sizeof *at.class_max},
        {&at.class_keys, classes * (int64_t)sizeof *at.class_keys},
        {&at.starts, (size + 1) * (int64_t)sizeof *at.starts},
        {&at.cells.key, cells * (int64_t)sizeof *at.cells.key},
        {&at.cells.start, cells * (int64_t)sizeof *at.cells.start},
        {&at.cells.end, cells * (int64_t)sizeof *at.cells.end},
    };
    enum { PARTS = sizeof parts / sizeof *parts };
    int64_t bytes = 0;
    for (int i = 0; i < PARTS; i++)
        bytes += round_up(parts[i].bytes, ALIGNED) + GAP;
    char *memory = malloc((size_t)bytes), *next = memory;
    if (!memory)
        return NO_MEMORY;
    for (int i = 0; i < PARTS; i++) {
        int64_t room_here = round_up(parts[i].bytes, ALIGNED) + GAP;
        memcpy(parts[i].array, &next, sizeof next);
        FORBID(next + parts[i].bytes, room_here - parts[i].bytes);
        next += room_here;
    }
    decode_range(call, begin, end, &at);
    free(memory);
    return 0;
}

/* ---- all chunks of a question --------------------------------------------------------------------- */

typedef struct {
    float score;
    int64_t chunk;
    int64_t rank;
} Head;

INLINE int before(const Head *a, const Head *b)
{
    return a->score > b->score || (a->score == b->score && a->chunk < b->chunk);
}

static void sift_down(Head *heap, int64_t n, int64_t i)
{
    Head head = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && before(heap + child + 1, heap + child);
        if (!before(heap + child, &head))
            break;
        heap[i] = heap[child];
    }
    heap[i] = head;
}

/* A token's place in the whole context; -1 for the null position, which is the same in every chunk. */
static int64_t place(const Call *call, int64_t chunk, int32_t token)
{
    int32_t first = call->context[2 * chunk], last = call->context[2 * chunk + 1];
    return first <= token && token < last ? (int64_t)call->context_offset[chunk] + token - first : -1;
}

/* Places of the spans that a question has got already: a hash table, open addressing, of their ranks + 1. */
typedef struct {
    uint32_t *slot;
    uint64_t slots; /* a power of two, more than the spans that come in */
} Seen;

/* Slots for n spans: at least twice as many. */
static uint64_t slots_for(int64_t n)
{
    uint64_t slots = 8;
    while (slots < 2 * (uint64_t)n)
        slots *= 2;
    return slots;
}

/* Whether the span from `start` to `end` of `chunk` has come before; else it is seen now, as number `found`. */
static int is_repeated(const Call *call, Seen seen, int64_t question, int64_t found, int64_t chunk, int32_t start,
                       int32_t end)
{
    int64_t first = place(call, chunk, start), last = place(call, chunk, end);
    uint64_t hash = ((uint64_t)first * 0x9e3779b97f4a7c15u ^ (uint64_t)last) * 0xc2b2ae3d27d4eb4fu;
    for (uint64_t i = hash >> 32;; i++) {
        uint32_t *slot = seen.slot + (i & (seen.slots - 1));
        if (!*slot) {
            *slot = (uint32_t)found + 1;
            return 0;
        }
        int64_t at = question * call->top_k + *slot - 1;
        if (place(call, call->row[at], call->start[at]) == first && place(call, call->row[at], call->end[at]) == last)
            return 1;
    }
}

static float log_sum_exp_of_chunks(const Call *call, int64_t from, int64_t to, int side)
{
    double peak = -INFINITY, sum = 0;
    for (int64_t c = from; c < to; c++)
        peak = call->log_norm[2 * c + side] > peak ? call->log_norm[2 * c + side] : peak;
    for (int64_t c = from; c < to && peak > -INFINITY; c++)
        sum += exp(call->log_norm[2 * c + side] - peak);
    return (float)(peak > -INFINITY ? peak + log(sum) : peak);
}

/* What to subtract from the sums of a chunk's logits; nothing where it has no support. */
static float norm_of(const Call *call, int64_t chunk)
{
    if (call->scoring == LOGIT)
        return 0;
    float norm = call->log_norm[2 * chunk] + call->log_norm[2 * chunk + 1];
    return norm > -INFINITY ? norm : 0;
}

/* The spans that a question with the chunks from `from` to `to` - 1 can have. */
static int64_t answers_of(const Call *call, int64_t from, int64_t to)
{
    return smaller(call->top_k, call->list_at[to] - call->list_at[from]);
}

static void merge_question(const Call *call, int64_t question, int64_t from, int64_t to, Head *heap, Seen seen)
{
    int64_t k = call->top_k, found = 0, heads = 0;
    float *score = call->score + question * k, null_score = INFINITY;
    int32_t *start = call->start + question * k, *end = call->end + question * k, *row = call->row + question * k;
    int bad = 0;
    for (int64_t c = from; c < to; c++)
        bad |= call->chunk_nonfinite[c];
    if (call->scoring == SHARED && !bad && to - from > 1) {
        float norm[2] = {log_sum_exp_of_chunks(call, from, to, 0), log_sum_exp_of_chunks(call, from, to, 1)};
        for (int64_t c = from; c < to; c++)
            memcpy(call->log_norm + 2 * c, norm, sizeof norm);
    }
    for (int64_t c = from; c < to && !bad; c++) {
        float norm = norm_of(call, c), null = call->null_total[c] - norm;
        null_score = null < null_score ? null : null_score;
        int64_t list = call->list_at[c];
        if (list < call->list_at[c + 1] && call->total[list] > -INFINITY)
            heap[heads++] = (Head){call->total[list] - norm, c, 0};
    }
    int distinct = call->context_offset && to - from > 1;
    if (distinct) {
        seen.slots = slots_for(answers_of(call, from, to));
        memset(seen.slot, 0, seen.slots * sizeof *seen.slot);
    }
    for (int64_t i = heads / 2 - 1; i >= 0; i--)
        sift_down(heap, heads, i);
    while (found < k && heads) {
        int64_t chunk = heap->chunk, at = call->list_at[chunk] + heap->rank;
        int32_t first = call->list_start[at], last = call->list_end[at];
        if (!distinct || !is_repeated(call, seen, question, found, chunk, first, last)) {
            score[found] = heap->score;
            start[found] = first;
            end[found] = last;
            row[found++] = (int32_t)chunk;
        }
        heap->rank++;
        if (at + 1 < call->list_at[chunk + 1] && call->total[at + 1] > -INFINITY)
            heap->score = call->total[at + 1] - norm_of(call, chunk);
        else
            *heap = heap[--heads];
        sift_down(heap, heads, 0);
    }
    for (; found < k; found++) {
        score[found] = bad ? NAN : -INFINITY;
        start[found] = end[found] = row[found] = -1;
    }
    call->null_score[question] = bad ? NAN : null_score < INFINITY ? null_score : -INFINITY;
    call->nonfinite[question] = (uint8_t)bad;
}

/* The answers to the questions from begin to end - 1, from their chunks' lists. A status. */
EXPORT int64_t qa_fast_merge_questions(const Call *call, int64_t begin, int64_t end)
{
    int64_t from = begin, most = 1, answers = 0;
    if (call->question) {
        int64_t high = call->n_chunks;
        for (from = 0; from < high;) { /* the first chunk of the first question */
            int64_t middle = from + (high - from) / 2;
            if (call->question[middle] < begin)
                from = middle + 1;
            else
                high = middle;
        }
        for (int64_t c = from, first = from; c < call->n_chunks && call->question[c] < end; c++) {
            if (call->question[c] != call->question[first])
                first = c;
            most = c - first + 1 > most ? c - first + 1 : most;
            int64_t here = answers_of(call, first, c + 1);
            answers = here > answers ? here : answers;
        }
    }
    Head *heap = malloc((size_t)most * sizeof *heap);
    Seen seen = {.slot = malloc(slots_for(answers) * sizeof *seen.slot)};
    if (!heap || !seen.slot) {
        free(heap);
        free(seen.slot);
        return NO_MEMORY;
    }
    for (int64_t question = begin, to; question < end; question++, from = to) {
        to = from + (!call->question && from < call->n_chunks);
        while (call->question && to < call->n_chunks && call->question[to] == question)
            to++;
        merge_question(call, question, from, to, heap, seen);
    }
    free(heap);
    free(seen.slot);
    return 0;
}

/* ---- the whole call ------------------------------------------------------------------------------- */

EXPORT void qa_fast_end(Call *call)
{
    if (call->question) {
        free(call->total);
        free(call->list_start);
        free(call->list_end);
        free(call->null_total);
        free(call->chunk_nonfinite);
    }
    free(call->list_at);
    free(call->log_norm);
}

/* Check all chunks and make room for their lists, until qa_fast_end. The caller has checked the buffers. */
EXPORT int64_t qa_fast_begin(Call *call)
{
    int64_t at = 0, chunks = call->n_chunks;
    call->list_at = malloc(((size_t)chunks + 1) * sizeof *call->list_at);
    call->log_norm = malloc(((size_t)chunks + 1) * 2 * sizeof *call->log_norm);
    /* A chunk that is a question of its own is merged in place. */
    call->total = call->question ? NULL : call->score;
    call->list_start = call->question ? NULL : call->start;
    call->list_end = call->question ? NULL : call->end;
    call->null_total = call->question ? NULL : call->null_score;
    call->chunk_nonfinite = call->question ? NULL : call->nonfinite;
    if (!call->list_at || !call->log_norm)
        return NO_MEMORY;
    for (int64_t c = 0; c < chunks; c++) {
        int64_t row = row_of(call, c), room = call->row_offset ? call->n_logits - row : call->row_stride;
        int32_t low = call->context[2 * c], high = call->context[2 * c + 1], null = call->null_position[c];
        if (row < 0 || low < 0 || low > high || high > room || null < -1 || null >= room)
            return 1 + c;
        call->list_at[c] = at;
        at += call->question ? smaller(call->top_k, spans_of(extent_of(call, c))) : call->top_k;
    }
    call->list_at[chunks] = at;
    if (call->question) {
        size_t room = (size_t)at + 1; /* not 0, for which malloc may give NULL */
        call->total = malloc(room * sizeof *call->total);
        call->list_start = malloc(room * sizeof *call->list_start);
        call->list_end = malloc(room * sizeof *call->list_end);
        call->null_total = malloc(((size_t)chunks + 1) * sizeof *call->null_total);
        call->chunk_nonfinite = malloc((size_t)chunks + 1);
        if (!call->total || !call->list_start || !call->list_end || !call->null_total || !call->chunk_nonfinite)
            return NO_MEMORY;
    }
    return 0;
}

/* All of a call, in one thread. */
EXPORT int64_t qa_fast_decode(Call *call)
{
    int64_t status = qa_fast_begin(call);
    if (!status)
        status = qa_fast_decode_chunks(call, 0, call->n_chunks);
    if (!status)
        status = qa_fast_merge_questions(call, 0, call->n_questions);
    qa_fast_end(call);
    return status;
}

/* The library is loaded with ctypes, so it needs no headers of Python; some linkers ask for this name. */
EXPORT void *PyInit__c_backend(void) { return NULL; }
