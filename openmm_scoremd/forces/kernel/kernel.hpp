// Vectors, products with constant matrices, products by head, and operations on rows.
//
// Everything by head is stored [index][head], heads fastest and padded to a power of two (or to
// whole vectors), so that all loops run over whole vectors whatever the numbers of beads and heads.
//
// Needs the vector extensions of GCC and Clang; no library.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, TILE_ROWS = 8, TILE_VECTORS = 3, PAIR_TILE = 5, MIX_ROWS = 5;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, TILE_ROWS = 4, TILE_VECTORS = 3, PAIR_TILE = 3, MIX_ROWS = 2;
#else
constexpr int VECTOR_BYTES = 16, TILE_ROWS = 4, TILE_VECTORS = 3, PAIR_TILE = 3, MIX_ROWS = 2;
#endif
constexpr int MIX_VECTORS = 4;

template <class T> struct Simd;
template <> struct Simd<float> {
    using Int = int32_t;
    typedef float V __attribute__((vector_size(VECTOR_BYTES), may_alias));
    typedef int32_t I __attribute__((vector_size(VECTOR_BYTES), may_alias));
    static constexpr int SHIFT = 23, DEGREE = 7;
    static constexpr float LOW = -87.0f, HIGH = 88.0f, MAGIC = 12582912.0f;
    static constexpr float LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f;
};
template <> struct Simd<double> {
    using Int = int64_t;
    typedef double V __attribute__((vector_size(VECTOR_BYTES), may_alias));
    typedef int64_t I __attribute__((vector_size(VECTOR_BYTES), may_alias));
    static constexpr int SHIFT = 52, DEGREE = 13;
    static constexpr double LOW = -708.0, HIGH = 708.0, MAGIC = 6755399441055744.0;
    static constexpr double LN2_HIGH = 6.93145751953125e-1, LN2_LOW = 1.42860682030941723212e-6;
};

constexpr int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

template <class T> class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(size_t count) { resize(count); }
    void resize(size_t count) {
        const size_t bytes = (count * sizeof(T) / 64 + 1) * 64;
        data_.reset(static_cast<T *>(std::aligned_alloc(64, bytes)));
        if (!data_) throw std::bad_alloc();
        std::memset(static_cast<void *>(data_.get()), 0, bytes);
    }
    T *get() const { return data_.get(); }
    T &operator[](size_t i) const { return data_.get()[i]; }

  private:
    struct Free {
        void operator()(T *p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
};

template <class T> struct Kernel {
    using S = Simd<T>;
    using V = typename S::V;
    using I = typename S::I;
    static constexpr int L = VECTOR_BYTES / sizeof(T);

    static V load(const T *p) { return *reinterpret_cast<const V *>(p); }
    static void store(T *p, V v) { *reinterpret_cast<V *>(p) = v; }
    static V splat(T value) { return V{} + value; }
    static V larger(V a, V b) { return a > b ? a : b; }
    static T sum(V v) {
        T total = 0;
        for (int i = 0; i < L; ++i) total += v[i];
        return total;
    }

    static constexpr std::array<T, S::DEGREE + 1> taylor() {
        std::array<T, S::DEGREE + 1> values{};
        double value = 1;
        for (int k = 0; k <= S::DEGREE; ++k) {
            values[k] = T(value);
            value /= k + 1;
        }
        return values;
    }

    // exp(x) = 2^n exp(r), n = round(x / ln 2): Taylor series of exp(r), |r| < 0.35, n added to the
    // exponent. NaN stays NaN.
    static V exponential(V x) {
        V y = x < splat(S::LOW) ? splat(S::LOW) : x;
        y = y > splat(S::HIGH) ? splat(S::HIGH) : y;
        const V shifted = y * T(1.4426950408889634) + S::MAGIC;
        const V n = shifted - S::MAGIC;
        const V r = (y - n * S::LN2_HIGH) - n * S::LN2_LOW;
        constexpr std::array<T, S::DEGREE + 1> coefficients = taylor();
        V p = splat(coefficients[S::DEGREE]);
        for (int k = S::DEGREE - 1; k >= 0; --k) p = p * r + coefficients[k];
        const I bits = (I)p + ((I)shifted << S::SHIFT);
        return x == x ? (V)bits : x;
    }
    static V sigmoid(V x) { return T(1) / (T(1) + exponential(-x)); }

    // --- products with constant matrices ---------------------------------------------------------

    // Columns in panels of TILE_VECTORS vectors (the last one narrower), each stored row by row.
    struct Matrix {
        int inputs = 0, vectors = 0;
        Buffer<T> panels, bias;

        template <class Entry> void fill(int rows, int columns, Entry entry) {
            inputs = rows;
            vectors = round_up(columns, L) / L;
            panels.resize(size_t(rows) * vectors * L);
            bias.resize(size_t(vectors) * L);
            for (int first = 0; first < vectors; first += TILE_VECTORS) {
                const int lanes = std::min(TILE_VECTORS, vectors - first) * L;
                T *panel = panels.get() + size_t(first) * L * rows;
                for (int k = 0; k < rows; ++k)
                    for (int j = 0; j < lanes; ++j) {
                        const int column = first * L + j;
                        panel[size_t(k) * lanes + j] = column < columns ? entry(k, column) : T(0);
                    }
            }
        }
    };

    enum class Start { bias, sum };

    template <int ROWS, int VECTORS>
    static void tile(const T *a, size_t stride_a, const T *panel, int inputs, const T *bias, T *c,
                     size_t stride_c, Start start) {
        V sums[ROWS][VECTORS];
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v)
                sums[r][v] = load(start == Start::sum ? c + r * stride_c + v * L : bias + v * L);
        for (int k = 0; k < inputs; ++k) {
            V b[VECTORS];
            for (int v = 0; v < VECTORS; ++v) b[v] = load(panel + (size_t(k) * VECTORS + v) * L);
            for (int r = 0; r < ROWS; ++r) {
                const V value = splat(a[r * stride_a + k]);
                for (int v = 0; v < VECTORS; ++v) sums[r][v] += value * b[v];
            }
        }
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) store(c + r * stride_c + v * L, sums[r][v]);
    }

    using Tile = void (*)(const T *, size_t, const T *, int, const T *, T *, size_t, Start);
    template <int... K> static constexpr std::array<Tile, sizeof...(K)> tiles(
        std::integer_sequence<int, K...>) {
        return {{&tile<K / TILE_VECTORS + 1, K % TILE_VECTORS + 1>...}};
    }

    // c = a B + bias, or c += a B; c has a stride of whole vectors.
    static void multiply(const T *a, size_t stride_a, int rows, const Matrix &b, T *c,
                         size_t stride_c, Start start = Start::bias) {
        static constexpr auto table =
            tiles(std::make_integer_sequence<int, TILE_ROWS * TILE_VECTORS>{});
        for (int first = 0; first < b.vectors; first += TILE_VECTORS) {
            const int vectors = std::min(TILE_VECTORS, b.vectors - first);
            const T *panel = b.panels.get() + size_t(first) * L * b.inputs;
            for (int row = 0; row < rows; row += TILE_ROWS) {
                const int count = std::min(TILE_ROWS, rows - row);
                table[(count - 1) * TILE_VECTORS + vectors - 1](
                    a + row * stride_a, stride_a, panel, b.inputs, b.bias.get() + first * L,
                    c + row * stride_c + first * L, stride_c, start);
            }
        }
    }

    // --- products by head: values[index][head], `lanes` heads repeat within a vector -------------

    // Sum over the vector's repetitions of the heads, in all of them.
    static V fold(V v, int lanes) {
        alignas(64) T in[L], out[L];
        store(in, v);
        for (int width = L / 2; width >= lanes; width /= 2) {
            for (int i = 0; i < width; ++i) in[i] += in[i + width];
        }
        for (int i = 0; i < L; ++i) out[i] = in[i & (lanes - 1)];
        return load(out);
    }
    static V fold_larger(V v, int lanes) {
        alignas(64) T in[L], out[L];
        store(in, v);
        for (int width = L / 2; width >= lanes; width /= 2)
            for (int i = 0; i < width; ++i) in[i] = in[i] > in[i + width] ? in[i] : in[i + width];
        for (int i = 0; i < L; ++i) out[i] = in[i & (lanes - 1)];
        return load(out);
    }
    static V repeat(const T *p, int lanes) {
        if (lanes == L) return load(p);
        alignas(64) T out[L];
        for (int i = 0; i < L; ++i) out[i] = p[i & (lanes - 1)];
        return load(out);
    }

    struct Heads {
        int padded; // number of heads stored
        int lanes;  // of them in one vector
        int groups; // vectors that hold all heads
    };

    // out[i][j][h] = sum_d a[i][d][h] b[j][d][h], strides in numbers.
    template <int ROWS, int COLUMNS>
    static void dots(const T *a, const T *b, size_t stride, int vectors, const Heads &heads, T *out,
                     size_t stride_out) {
        for (int g = 0; g < heads.groups; ++g) {
            V sums[ROWS][COLUMNS] = {};
            for (int v = g; v < vectors; v += heads.groups) {
                V right[COLUMNS];
                for (int j = 0; j < COLUMNS; ++j) right[j] = load(b + j * stride + v * L);
                for (int i = 0; i < ROWS; ++i) {
                    const V left = load(a + i * stride + v * L);
                    for (int j = 0; j < COLUMNS; ++j) sums[i][j] += left * right[j];
                }
            }
            for (int i = 0; i < ROWS; ++i)
                for (int j = 0; j < COLUMNS; ++j) {
                    alignas(64) T in[L];
                    store(in, sums[i][j]);
                    for (int width = L / 2; width >= heads.lanes; width /= 2)
                        for (int k = 0; k < width; ++k) in[k] += in[k + width];
                    std::memcpy(out + i * stride_out + j * heads.padded + g * L, in,
                                heads.lanes * sizeof(T));
                }
        }
    }
    using Dots = void (*)(const T *, const T *, size_t, int, const Heads &, T *, size_t);
    template <int... K> static constexpr std::array<Dots, sizeof...(K)> all_dots(
        std::integer_sequence<int, K...>) {
        return {{&dots<K / PAIR_TILE + 1, K % PAIR_TILE + 1>...}};
    }
    static void pair_dots(const T *a, const T *b, size_t stride, int n, const Heads &heads, T *out,
                          size_t stride_out) {
        static constexpr auto table =
            all_dots(std::make_integer_sequence<int, PAIR_TILE * PAIR_TILE>{});
        const int vectors = int(stride) / L;
        for (int i = 0; i < n; i += PAIR_TILE)
            for (int j = 0; j < n; j += PAIR_TILE) {
                const int rows = std::min(PAIR_TILE, n - i), columns = std::min(PAIR_TILE, n - j);
                table[(rows - 1) * PAIR_TILE + columns - 1](
                    a + i * stride, b + j * stride, stride, vectors, heads,
                    out + i * stride_out + j * heads.padded, stride_out);
            }
    }

    // out[i][d][h] = or += sum_j w[i][j][h] b[j][d][h]
    template <int ROWS, int VECTORS>
    static void mixes(const V *weights, int n, const T *b, size_t stride, int groups, int g,
                      T *out, bool add) {
        V sums[ROWS][VECTORS];
        const int step = groups * L;
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v)
                sums[i][v] = add ? load(out + i * stride + v * step) : V{};
        for (int j = 0; j < n; ++j) {
            V right[VECTORS];
            for (int v = 0; v < VECTORS; ++v) right[v] = load(b + j * stride + v * step);
            for (int i = 0; i < ROWS; ++i) {
                const V weight = weights[(size_t(i) * n + j) * groups + g];
                for (int v = 0; v < VECTORS; ++v) sums[i][v] += weight * right[v];
            }
        }
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v) store(out + i * stride + v * step, sums[i][v]);
    }
    using Mixes = void (*)(const V *, int, const T *, size_t, int, int, T *, bool);
    template <int... K> static constexpr std::array<Mixes, sizeof...(K)> all_mixes(
        std::integer_sequence<int, K...>) {
        return {{&mixes<K / MIX_VECTORS + 1, K % MIX_VECTORS + 1>...}};
    }
    // `weights` holds [i][j][head] with the strides given; `repeated` has room for MIX_ROWS * n
    // * groups vectors.
    static void pair_mixes(const T *weights, size_t stride_i, size_t stride_j, const T *b,
                           size_t stride, int n, const Heads &heads, V *repeated, T *out,
                           bool add) {
        static constexpr auto table =
            all_mixes(std::make_integer_sequence<int, MIX_ROWS * MIX_VECTORS>{});
        const int per_group = int(stride) / L / heads.groups;
        for (int i = 0; i < n; i += MIX_ROWS) {
            const int rows = std::min(MIX_ROWS, n - i);
            for (int r = 0; r < rows; ++r)
                for (int j = 0; j < n; ++j)
                    for (int g = 0; g < heads.groups; ++g)
                        repeated[(size_t(r) * n + j) * heads.groups + g] = repeat(
                            weights + (i + r) * stride_i + j * stride_j + g * L, heads.lanes);
            for (int g = 0; g < heads.groups; ++g)
                for (int v = 0; v < per_group; v += MIX_VECTORS) {
                    const int vectors = std::min(MIX_VECTORS, per_group - v);
                    const size_t offset = size_t(v * heads.groups + g) * L;
                    table[(rows - 1) * MIX_VECTORS + vectors - 1](
                        repeated, n, b + offset, stride, heads.groups, g,
                        out + i * stride + offset, add);
                }
        }
    }

    // Soft-max over j of row[j][head] in place; padding beyond n * heads becomes 0.
    static void soft_max(T *row, int n, int stride, const Heads &heads) {
        for (int k = n * heads.padded; k < stride; ++k) row[k] = T(-1e30);
        const int vectors = stride / L;
        for (int g = 0; g < heads.groups; ++g) {
            V top = load(row + g * L), total = {};
            for (int v = g; v < vectors; v += heads.groups) top = larger(top, load(row + v * L));
            top = fold_larger(top, heads.lanes);
            for (int v = g; v < vectors; v += heads.groups) {
                const V e = exponential(load(row + v * L) - top);
                store(row + v * L, e);
                total += e;
            }
            const V scale = T(1) / fold(total, heads.lanes);
            for (int v = g; v < vectors; v += heads.groups)
                store(row + v * L, load(row + v * L) * scale);
        }
        for (int k = n * heads.padded; k < stride; ++k) row[k] = 0;
    }
    // Gradient with respect to logits from that with respect to the soft-max, in place.
    static void soft_max_back(const T *row, T *gradient, int stride, const Heads &heads) {
        const int vectors = stride / L;
        for (int g = 0; g < heads.groups; ++g) {
            V total = {};
            for (int v = g; v < vectors; v += heads.groups)
                total += load(row + v * L) * load(gradient + v * L);
            total = fold(total, heads.lanes);
            for (int v = g; v < vectors; v += heads.groups)
                store(gradient + v * L, load(row + v * L) * (load(gradient + v * L) - total));
        }
    }

    // --- rows ------------------------------------------------------------------------------------

    struct Gate {
        Buffer<T> of_new, of_old;
    };
    // new is replaced by new - old, old by the blend.
    static void gate(const Gate &gate, int rows, int stride, T *fresh, T *old, T *shares) {
        for (int r = 0; r < rows; ++r) {
            T *n = fresh + size_t(r) * stride, *o = old + size_t(r) * stride;
            V logit = {};
            for (int k = 0; k < stride; k += L)
                logit += load(n + k) * load(&gate.of_new[k]) + load(o + k) * load(&gate.of_old[k]);
            const T share = sigmoid(splat(sum(logit)))[0];
            shares[r] = share;
            for (int k = 0; k < stride; k += L) {
                const V change = load(n + k) - load(o + k);
                store(n + k, change);
                store(o + k, load(o + k) + share * change);
            }
        }
    }
    // gradient becomes that of old, of_new that of new.
    static void gate_back(const Gate &gate, int rows, int stride, const T *changes, const T *shares,
                          T *gradient, T *of_new) {
        for (int r = 0; r < rows; ++r) {
            T *g = gradient + size_t(r) * stride;
            V dot = {};
            for (int k = 0; k < stride; k += L)
                dot += load(g + k) * load(changes + size_t(r) * stride + k);
            const T share = shares[r], of_logit = sum(dot) * share * (1 - share);
            for (int k = 0; k < stride; k += L) {
                const V value = load(g + k);
                store(of_new + size_t(r) * stride + k,
                      value * share + of_logit * load(&gate.of_new[k]));
                store(g + k, value * (1 - share) + of_logit * load(&gate.of_old[k]));
            }
        }
    }

    static constexpr double EPSILON = 1e-6; // LAYER_NORM_EPSILON
    static void normalise(const T *nodes, int rows, int width, int stride, const T *mask, T *out,
                          T *inverse) {
        for (int r = 0; r < rows; ++r) {
            const T *x = nodes + size_t(r) * stride;
            V total = {}, squares = {};
            for (int k = 0; k < stride; k += L) total += load(x + k);
            const T mean = sum(total) / width;
            for (int k = 0; k < stride; k += L) {
                const V d = (load(x + k) - mean) * load(mask + k);
                squares += d * d;
                store(out + size_t(r) * stride + k, d);
            }
            inverse[r] = T(1) / std::sqrt(sum(squares) / width + T(EPSILON));
            for (int k = 0; k < stride; k += L)
                store(out + size_t(r) * stride + k, load(out + size_t(r) * stride + k) * inverse[r]);
        }
    }
    // Adds to `gradient` what arrives through the normalisation.
    static void normalise_back(const T *normalised, const T *inverse, const T *arriving, int rows,
                               int width, int stride, const T *mask, T *gradient) {
        for (int r = 0; r < rows; ++r) {
            const T *n = normalised + size_t(r) * stride, *a = arriving + size_t(r) * stride;
            T *g = gradient + size_t(r) * stride;
            V total = {}, along = {};
            for (int k = 0; k < stride; k += L) {
                total += load(a + k);
                along += load(a + k) * load(n + k);
            }
            const T mean = sum(total) / width, slope = sum(along) / width;
            for (int k = 0; k < stride; k += L) {
                const V d = (load(a + k) - mean - load(n + k) * slope) * inverse[r];
                store(g + k, load(g + k) + d * load(mask + k));
            }
        }
    }

    // gelu(u) = u sigmoid(2 v), v = sqrt(2 / pi) (u + 0.044715 u^3); values replace u.
    static void gelu(T *values, T *slopes, size_t count) {
        const T c = T(2 * 0.7978845608028654), d = T(0.044715);
        for (size_t k = 0; k < count; k += L) {
            const V u = load(values + k), square = u * u;
            const V s = sigmoid(c * u * (T(1) + d * square));
            const V inner = c * (T(1) + 3 * d * square);
            store(values + k, u * s);
            store(slopes + k, s + u * s * (T(1) - s) * inner);
        }
    }
};

} // namespace
