// Energies and forces of an invariant network at one noise level, for many replicas.
//
// Structure of arrays: a number of one replica lies beside that of the next, and a thread takes a
// block of one or two vectors of replicas from positions to forces. Everything that depends on the
// noise level is folded into the tensors before.
//
//   d = sqrt(|r|^2 + softening), f = (d - centre) inverse_width for every pair
//   g = u1 x u2 . u3 and u1 x u2 . u2 x u3, u = e / sqrt(|e|^2 + softening), for every volume
//   E = envelope [ |x - mean x|^2 / 2 + f (curvature f / 2 + slope) + sum over windows of MLP(f, g) ]

// Roots of whole vectors: without this, GCC asks after each number whether to set errno. Not an option
// of the command line, with which the other kernel rounds differently in blocks of other sizes.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno")
#endif

#include "kernel.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

struct Sizes {
    int beads, pairs, volumes, windows, inputs, width, layers, coupled;
};

// Rows of outputs in tiles, each stored input by input.
template <class T> struct Rows {
    static constexpr int TILE = 6;
    int outputs = 0, inputs = 0;
    Buffer<T> packed;

    template <class Entry> void fill(int rows, int columns, Entry entry) {
        outputs = rows;
        inputs = columns;
        packed.resize(size_t(round_up(rows, TILE)) * columns);
        for (int o = 0; o < round_up(rows, TILE); ++o)
            for (int k = 0; k < columns; ++k)
                packed[(size_t(o / TILE) * columns + k) * TILE + o % TILE] =
                    o < rows ? entry(o, k) : T(0);
    }
};

template <class T> class Network {
    using K = Kernel<T>;
    using V = typename K::V;
    static constexpr int L = K::L;
    static constexpr int MIN_BLOCKS = 4;

  public:
    Network(const Sizes &s, const void *const *tensors)
        : s_(s) {
        const int64_t n_indices = 2 * s.pairs + 4 * s.volumes + int64_t(s.windows) * s.inputs;
        const int64_t *indices = static_cast<const int64_t *>(tensors[0]);
        index_.assign(indices, indices + n_indices);
        next_ = reinterpret_cast<const T *const *>(tensors + 1);
        const T *scalars = take();
        softening_ = scalars[0];
        envelope_ = scalars[1];
        copy(centre_, s.pairs);
        copy(inverse_width_, s.pairs);
        copy(curvature_, size_t(s.pairs) * (s.coupled ? s.pairs : 1));
        copy(slope_, s.pairs);
        layers_.resize(s.layers);
        for (int l = 0; l < s.layers; ++l) {
            const int inputs = l ? s.width : s.inputs;
            const T *weight = take();
            layers_[l].forward.fill(s.width, inputs, [&](int o, int k) {
                return weight[size_t(o) * inputs + k];
            });
            layers_[l].back.fill(inputs, s.width, [&](int o, int k) {
                return weight[size_t(k) * inputs + o];
            });
            copy(layers_[l].bias, size_t(s.width) * (l ? 1 : s.windows));
        }
        copy(readout_, s.width);
    }

    void evaluate(const double *positions, int64_t replicas, double inverse_scale, double unit,
                  int threads, double *energies, double *forces) {
        // Few replicas: narrow blocks waste less. A thread must have more to do than waking it costs.
        const int64_t size = replicas <= L ? L : 2 * L;
        const int64_t blocks = (replicas + size - 1) / size;
        const int used = int(std::max<int64_t>(1, std::min<int64_t>(threads, blocks / MIN_BLOCKS)));
        while (int(work_.size()) < used) work_.push_back(std::make_unique<Workspace>(s_));
        const Call call{positions, inverse_scale, unit, energies, forces};
#pragma omp parallel for num_threads(used) schedule(dynamic, 2) if (used > 1)
        for (int64_t b = 0; b < blocks; ++b) {
#if defined(_OPENMP)
            Workspace &work = *work_[omp_get_thread_num()];
#else
            Workspace &work = *work_[0];
#endif
            const int64_t first = b * size, count = std::min(size, replicas - first);
            // Compilers round differently in the two, so all replicas of a call take the same.
            if (size == L)
                block<1>(work, call, first, int(count));
            else
                block<2>(work, call, first, int(count));
        }
    }

  private:
    struct Layer {
        Rows<T> forward, back;
        Buffer<T> bias;
    };
    struct Call {
        const double *positions;
        double inverse_scale, unit;
        double *energies, *forces;
    };
    // A number takes two vectors of space at most.
    struct Workspace {
        explicit Workspace(const Sizes &s)
            : x(lanes(3 * s.beads)), gradient(lanes(3 * s.beads)),
              features(lanes(s.pairs + 2 * s.volumes)), of_features(lanes(s.pairs + 2 * s.volumes)),
              inverse(lanes(s.pairs)), values(lanes(s.width)),
              slopes(lanes(s.width * s.layers)), back(lanes(s.width)), other(lanes(s.width)),
              inputs(lanes(std::max(s.inputs, s.width))) {}
        static size_t lanes(int count) { return size_t(count) * 2 * L; }
        Buffer<T> x, gradient, features, of_features, inverse, values, slopes, back, other,
            inputs;
    };
    struct Vector3 {
        V x, y, z;
        Vector3 operator-(const Vector3 &o) const { return {x - o.x, y - o.y, z - o.z}; }
        Vector3 operator+(const Vector3 &o) const { return {x + o.x, y + o.y, z + o.z}; }
        friend Vector3 operator*(V f, const Vector3 &o) { return {f * o.x, f * o.y, f * o.z}; }
        V dot(const Vector3 &o) const { return x * o.x + y * o.y + z * o.z; }
        Vector3 cross(const Vector3 &o) const {
            return {y * o.z - z * o.y, z * o.x - x * o.z, x * o.y - y * o.x};
        }
    };

    const T *take() { return *next_++; }
    void copy(Buffer<T> &to, size_t count) {
        to.resize(count);
        std::memcpy(to.get(), take(), count * sizeof(T));
    }
    static V root(V v) {
        V out;
        for (int i = 0; i < L; ++i) out[i] = std::sqrt(v[i]);
        return out;
    }

    template <int VV> static Vector3 read(const T *p, int64_t bead, int v) {
        const T *q = p + (size_t(bead) * 3 * VV + v) * L;
        return {K::load(q), K::load(q + VV * L), K::load(q + 2 * VV * L)};
    }
    template <int VV> static void add(T *p, int64_t bead, int v, const Vector3 &value) {
        T *q = p + (size_t(bead) * 3 * VV + v) * L;
        K::store(q, K::load(q) + value.x);
        K::store(q + VV * L, K::load(q + VV * L) + value.y);
        K::store(q + 2 * VV * L, K::load(q + 2 * VV * L) + value.z);
    }

    template <int VV> void block(Workspace &work, const Call &call, int64_t first, int count) {
        const int n = s_.beads;
        T *x = work.x.get(), *gradient = work.gradient.get();
        for (int r = 0; r < VV * L; ++r) {
            // The last replica fills the places that are left.
            const double *p = call.positions + (first + std::min(r, count - 1)) * 3 * n;
            for (int i = 0; i < 3 * n; ++i)
                x[size_t(i) * VV * L + r] = T((p[i] - p[i % 3]) * call.inverse_scale);
        }
        V energy[VV];
        harmonic<VV>(x, gradient, energy);
        measure<VV>(work);
        quadratic<VV>(work, energy);
        for (int w = 0; w < s_.windows; ++w) network<VV>(work, w, energy);
        spread<VV>(work);
        const double of_energy = call.unit * double(envelope_);
        const double of_force = -of_energy * call.inverse_scale;
        for (int r = 0; r < count; ++r) {
            call.energies[first + r] = of_energy * double(energy[r / L][r % L]);
            double *f = call.forces + (first + r) * 3 * n;
            for (int i = 0; i < 3 * n; ++i)
                f[i] = of_force * double(gradient[size_t(i) * VV * L + r]);
        }
    }

    // Half the squared distance from the centroid, the limit of much noise.
    template <int VV> void harmonic(const T *x, T *gradient, V *energy) const {
        const int n = s_.beads;
        for (int v = 0; v < VV; ++v) energy[v] = V{};
        for (int c = 0; c < 3; ++c)
            for (int v = 0; v < VV; ++v) {
                V mean = {};
                for (int i = 0; i < n; ++i) mean += K::load(x + (size_t(3 * i + c) * VV + v) * L);
                mean *= T(1) / T(n);
                for (int i = 0; i < n; ++i) {
                    const size_t at = (size_t(3 * i + c) * VV + v) * L;
                    const V d = K::load(x + at) - mean;
                    energy[v] += T(0.5) * d * d;
                    K::store(gradient + at, d);
                }
            }
    }

    template <int VV> void measure(Workspace &work) const {
        const int64_t *pair = index_.data(), *volume = pair + 2 * s_.pairs;
        const T *x = work.x.get();
        for (int p = 0; p < s_.pairs; ++p)
            for (int v = 0; v < VV; ++v) {
                const size_t at = (size_t(p) * VV + v) * L;
                const Vector3 r = read<VV>(x, pair[2 * p], v) - read<VV>(x, pair[2 * p + 1], v);
                const V d = root(r.dot(r) + softening_);
                K::store(&work.inverse[at], inverse_width_[p] / d);
                K::store(&work.features[at], (d - centre_[p]) * inverse_width_[p]);
            }
        for (int q = 0; q < s_.volumes; ++q)
            for (int v = 0; v < VV; ++v) {
                const Edges u = edges<VV>(x, volume + 4 * q, v);
                const Vector3 before = u.first.cross(u.second), after = u.second.cross(u.third);
                const size_t at = (size_t(s_.pairs + q) * VV + v) * L;
                K::store(&work.features[at], before.dot(u.third));
                K::store(&work.features[at + size_t(s_.volumes) * VV * L], before.dot(after));
            }
    }

    // Unit vectors along the edges of a volume, and what edges were multiplied with.
    struct Edges {
        Vector3 first, second, third;
        V of_first, of_second, of_third;
    };
    template <int VV> Edges edges(const T *x, const int64_t *bead, int v) const {
        const Vector3 a = read<VV>(x, bead[0], v), b = read<VV>(x, bead[1], v);
        const Vector3 c = read<VV>(x, bead[2], v), d = read<VV>(x, bead[3], v);
        const Vector3 e = b - a, f = c - b, g = d - c;
        const V of_e = T(1) / root(e.dot(e) + softening_), of_f = T(1) / root(f.dot(f) + softening_);
        const V of_g = T(1) / root(g.dot(g) + softening_);
        return {of_e * e, of_f * f, of_g * g, of_e, of_f, of_g};
    }

    template <int VV> void quadratic(Workspace &work, V *energy) const {
        const T *f = work.features.get();
        for (int p = 0; p < s_.pairs; ++p)
            for (int v = 0; v < VV; ++v) {
                const size_t at = (size_t(p) * VV + v) * L;
                V inner = {};
                if (s_.coupled)
                    for (int k = 0; k < s_.pairs; ++k)
                        inner += curvature_[size_t(p) * s_.pairs + k] *
                                 K::load(f + (size_t(k) * VV + v) * L);
                else
                    inner = curvature_[p] * K::load(f + at);
                energy[v] += K::load(f + at) * (T(0.5) * inner + slope_[p]);
                K::store(&work.of_features[at], inner + slope_[p]);
            }
        const size_t rest = size_t(s_.pairs) * VV * L;
        std::memset(static_cast<void *>(&work.of_features[rest]), 0,
                    size_t(2 * s_.volumes) * VV * L * sizeof(T));
    }

    template <int VV, int ROWS>
    static void tile(const T *packed, int inputs, const T *in, V (&sums)[ROWS][VV]) {
        for (int k = 0; k < inputs; ++k) {
            V b[VV];
            for (int v = 0; v < VV; ++v) b[v] = K::load(in + (size_t(k) * VV + v) * L);
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < VV; ++v) sums[r][v] += packed[k * ROWS + r] * b[v];
        }
    }
    template <int VV, class Use>
    static void multiply(const Rows<T> &rows, const T *in, const T *bias, Use use) {
        constexpr int TILE = Rows<T>::TILE;
        for (int first = 0; first < rows.outputs; first += TILE) {
            const int count = std::min(TILE, rows.outputs - first);
            V sums[TILE][VV] = {};
            tile<VV, TILE>(rows.packed.get() + size_t(first) * rows.inputs, rows.inputs, in, sums);
            for (int r = 0; r < count; ++r)
                for (int v = 0; v < VV; ++v)
                    use(first + r, v, bias ? sums[r][v] + bias[first + r] : sums[r][v]);
        }
    }

    template <int VV> void network(Workspace &work, int window, V *energy) const {
        const int width = s_.width;
        const int64_t *from = index_.data() + 2 * s_.pairs + 4 * s_.volumes +
                              int64_t(window) * s_.inputs;
        T *in = work.inputs.get(), *out = work.values.get();
        for (int k = 0; k < s_.inputs; ++k)
            std::memcpy(in + size_t(k) * VV * L, &work.features[size_t(from[k]) * VV * L],
                        VV * L * sizeof(T));
        for (int l = 0; l < s_.layers; ++l) {
            const T *bias = layers_[l].bias.get() + (l ? 0 : size_t(window) * width);
            T *slopes = work.slopes.get() + size_t(l) * width * VV * L;
            multiply<VV>(layers_[l].forward, in, bias, [&](int o, int v, V z) {
                const size_t at = (size_t(o) * VV + v) * L;
                const V s = K::sigmoid(z);
                K::store(out + at, z * s);
                K::store(slopes + at, s * (T(1) + z * (T(1) - s)));
            });
            std::swap(in, out);
        }
        const T *readout = readout_.get();
        const T *slopes = work.slopes.get() + size_t(s_.layers - 1) * width * VV * L;
        T *back = work.back.get(), *other = work.other.get();
        for (int o = 0; o < width; ++o)
            for (int v = 0; v < VV; ++v) {
                const size_t at = (size_t(o) * VV + v) * L;
                energy[v] += readout[o] * K::load(in + at);
                K::store(back + at, readout[o] * K::load(slopes + at));
            }
        for (int l = s_.layers - 1; l > 0; --l) {
            const T *below = work.slopes.get() + size_t(l - 1) * width * VV * L;
            multiply<VV>(layers_[l].back, back, nullptr, [&](int o, int v, V z) {
                const size_t at = (size_t(o) * VV + v) * L;
                K::store(other + at, z * K::load(below + at));
            });
            std::swap(back, other);
        }
        T *of_features = work.of_features.get();
        multiply<VV>(layers_[0].back, back, nullptr, [&](int o, int v, V z) {
            T *to = of_features + (size_t(from[o]) * VV + v) * L;
            K::store(to, K::load(to) + z);
        });
    }

    // From gradients with respect to features to gradients with respect to coordinates.
    template <int VV> void spread(Workspace &work) const {
        const int64_t *pair = index_.data(), *volume = pair + 2 * s_.pairs;
        const T *x = work.x.get();
        T *gradient = work.gradient.get();
        for (int p = 0; p < s_.pairs; ++p)
            for (int v = 0; v < VV; ++v) {
                const size_t at = (size_t(p) * VV + v) * L;
                const int64_t i = pair[2 * p], j = pair[2 * p + 1];
                const V factor = K::load(&work.of_features[at]) * K::load(&work.inverse[at]);
                const Vector3 change = factor * (read<VV>(x, i, v) - read<VV>(x, j, v));
                add<VV>(gradient, i, v, change);
                add<VV>(gradient, j, v, Vector3{} - change);
            }
        for (int q = 0; q < s_.volumes; ++q)
            for (int v = 0; v < VV; ++v) spread_volume<VV>(work, volume + 4 * q, q, v);
    }

    // From the gradient of a unit vector to that of its edge, along which it does not change.
    static Vector3 edge(const Vector3 &unit, V factor, const Vector3 &of_unit) {
        return factor * (of_unit - unit.dot(of_unit) * unit);
    }
    template <int VV>
    void spread_volume(Workspace &work, const int64_t *bead, int q, int v) const {
        T *gradient = work.gradient.get();
        const size_t at = (size_t(s_.pairs + q) * VV + v) * L;
        const Edges u = edges<VV>(work.x.get(), bead, v);
        const V of_sine = K::load(&work.of_features[at]);
        const V of_cosine = K::load(&work.of_features[at + size_t(s_.volumes) * VV * L]);
        const Vector3 before = u.first.cross(u.second), after = u.second.cross(u.third);
        const Vector3 of_before = of_sine * u.third + of_cosine * after;
        const Vector3 of_after = of_cosine * before;
        const Vector3 of_e = edge(u.first, u.of_first, u.second.cross(of_before));
        const Vector3 of_f = edge(u.second, u.of_second,
                                  of_before.cross(u.first) + u.third.cross(of_after));
        const Vector3 of_g = edge(u.third, u.of_third, of_sine * before + of_after.cross(u.second));
        add<VV>(gradient, bead[0], v, Vector3{} - of_e);
        add<VV>(gradient, bead[1], v, of_e - of_f);
        add<VV>(gradient, bead[2], v, of_f - of_g);
        add<VV>(gradient, bead[3], v, of_g);
    }

    Sizes s_;
    const T *const *next_;
    std::vector<int64_t> index_;
    T softening_, envelope_;
    Buffer<T> centre_, inverse_width_, curvature_, slope_, readout_;
    std::vector<Layer> layers_;
    std::vector<std::unique_ptr<Workspace>> work_;
};

template <class T>
void *create(const int64_t *sizes, const void *const *tensors) try {
    const Sizes s{int(sizes[0]), int(sizes[1]), int(sizes[2]), int(sizes[3]),
                           int(sizes[4]), int(sizes[5]), int(sizes[6]), int(sizes[7])};
    return new Network<T>(s, tensors);
} catch (const std::bad_alloc &) {
    return nullptr;
}

template <class T>
int evaluate(void *network, const double *positions, int64_t replicas, double inverse_scale,
             double unit, int threads, double *energies, double *forces) try {
    static_cast<Network<T> *>(network)->evaluate(positions, replicas, inverse_scale, unit,
                                                   threads, energies, forces);
    return 0;
} catch (const std::bad_alloc &) {
    return 1;
}

} // namespace

// `create` returns nullptr, `evaluate` 1, where memory is short.
#define EXPORTED(NAME, T)                                                                          \
    extern "C" void *scoremd_create_##NAME(const int64_t *sizes, const void *const *tensors) {     \
        return create<T>(sizes, tensors);                                                          \
    }                                                                                              \
    extern "C" void scoremd_destroy_##NAME(void *network) {                                        \
        delete static_cast<Network<T> *>(network);                                                 \
    }                                                                                              \
    extern "C" int scoremd_evaluate_##NAME(void *network, const double *positions,                 \
                                           int64_t replicas, double inverse_scale, double unit,    \
                                           int threads, double *energies, double *forces) {        \
        return evaluate<T>(network, positions, replicas, inverse_scale, unit, threads, energies,   \
                           forces);                                                                \
    }

EXPORTED(float32, float)
EXPORTED(float64, double)
