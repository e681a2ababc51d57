// Energy and forces of a folded graph transformer for many replicas of one molecule.
//
// The same equations as models/explicit.py, which names them block by block. Here a block of
// replicas goes through the whole network and back while it is in cache, and blocks are shared out
// to threads. NaN in one replica stays there: no operation mixes rows of different replicas.

#include "kernel.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

struct Sizes {
    int64_t n_beads, width, heads, head_width, layers;
    // Bead rows in one block, the most.
    int64_t rows;
};

// Tensors in the order in which `create` takes them, contiguous, as models/explicit.py has them.
// With head_width 0 later layers are absorbed and have no key_value.
template <class T> class Network {
    using K = Kernel<T>;
    using V = typename K::V;
    using Matrix = typename K::Matrix;
    static constexpr int L = K::L;

    struct FeedForward {
        Matrix first, second, first_back, second_back;
        typename K::Gate gate;
    };
    struct Attention {
        Matrix query, key_value, output, query_back, key_value_back, output_back;
        typename K::Gate gate;
    };

  public:
    Network(const Sizes &sizes, const T *const *tensors)
        : n_(sizes.n_beads), width_(sizes.width), wide_(round_up(width_, L)),
          absorbed_(sizes.head_width == 0), inner_(absorbed_ ? width_ : sizes.head_width),
          layers_(sizes.layers), count_(sizes.heads), next_(tensors) {
        heads_.padded = 1;
        while (heads_.padded < count_ && heads_.padded < L) heads_.padded *= 2;
        if (heads_.padded < count_) heads_.padded = round_up(count_, L);
        heads_.lanes = std::min(heads_.padded, L);
        heads_.groups = heads_.padded / heads_.lanes;
        pairs_ = round_up(n_ * heads_.padded, L);
        stride_ = round_up((inner_ + 3) * heads_.padded, L * heads_.groups);
        first_stride_ = round_up((n_ + 3) * heads_.padded, L);
        rows_ = std::max<int>(1, sizes.rows / n_) * n_;
        mask_.resize(wide_);
        for (int k = 0; k < width_; ++k) mask_[k] = 1;
        read_first();
        feed_forwards_.resize(layers_);
        attentions_.resize(layers_ - 1);
        read(feed_forwards_[0]);
        for (int l = 1; l < layers_; ++l) {
            read(attentions_[l - 1]);
            read(feed_forwards_[l]);
        }
        decoder_.resize(wide_);
        std::memcpy(decoder_.get(), *next_++, width_ * sizeof(T));
        decoder_bias_ = (*next_++)[0];
    }

    // positions (replicas, N, 3), nm; energies (replicas,) and forces (replicas, N, 3), nm.
    void evaluate(const double *positions, int64_t replicas, double inverse_scale, double unit,
                  int threads, double *energies, double *forces) {
        if (replicas == 0) return;
        const int64_t most = rows_ / n_;
        // Equal blocks, a multiple of the threads where there are enough replicas.
        int64_t blocks = (replicas + most - 1) / most;
        if (replicas >= threads) blocks = (blocks + threads - 1) / threads * threads;
        blocks = std::min(blocks, replicas);
        threads = int(std::min<int64_t>(threads, blocks));
        while (int(work_.size()) < threads) work_.push_back(std::make_unique<Workspace>(*this));
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
#endif
        for (int64_t b = 0; b < blocks; ++b) {
#ifdef _OPENMP
            Workspace &work = *work_[omp_get_thread_num()];
#else
            Workspace &work = *work_[0];
#endif
            const int64_t begin = b * replicas / blocks, end = (b + 1) * replicas / blocks;
            block(work, positions + begin * n_ * 3, int(end - begin), inverse_scale, unit,
                  energies + begin, forces + begin * n_ * 3);
        }
    }

  private:
    // What the way back needs of one layer, and what is used again at once.
    struct Saved {
        Buffer<T> normalised, inverse, query, key_value, attention, change, share;
        Buffer<T> feed_normalised, feed_inverse, slope, feed_change, feed_share;
    };
    struct Workspace {
        Buffer<T> x, of_x, nodes, gradient, of_new, hidden, mixed, of_mixed, memory, of_memory;
        Buffer<T> of_pairs, repeated, edges, of_edges;
        std::vector<Saved> saved;

        explicit Workspace(const Network &net) : saved(net.layers_) {
            const size_t rows = net.rows_, wide = net.wide_, n = net.n_;
            x.resize(rows * 3);
            of_x.resize(rows * 3);
            nodes.resize(rows * wide);
            gradient.resize(rows * wide);
            of_new.resize(rows * wide);
            hidden.resize(rows * net.hidden());
            const size_t mixed_stride = std::max(net.stride_, net.first_stride_);
            mixed.resize(rows * mixed_stride);
            of_mixed.resize(rows * 2 * net.stride_);
            memory.resize(n * net.stride_);
            of_memory.resize(n * net.stride_);
            of_pairs.resize(n * net.pairs_);
            repeated.resize(size_t(MIX_ROWS) * n * net.heads_.groups * L);
            edges.resize(3 * size_t(net.pairs_));
            of_edges.resize(3 * size_t(net.pairs_));
            for (int l = 0; l < net.layers_; ++l) {
                Saved &s = saved[l];
                s.attention.resize(rows * net.pairs_);
                for (Buffer<T> *b : {&s.normalised, &s.change, &s.feed_normalised, &s.feed_change})
                    b->resize(rows * wide);
                for (Buffer<T> *b : {&s.inverse, &s.share, &s.feed_inverse, &s.feed_share})
                    b->resize(rows);
                s.slope.resize(rows * net.hidden());
                if (l > 0) s.query.resize(rows * net.stride_);
                if (l > 0 && !net.absorbed_) s.key_value.resize(rows * 2 * net.stride_);
            }
        }
    };

    int hidden() const { return round_up(4 * width_, L); }

    // --- reading weights -------------------------------------------------------------------------

    void read(typename K::Gate &gate) {
        for (Buffer<T> *b : {&gate.of_new, &gate.of_old}) {
            b->resize(wide_);
            std::memcpy(b->get(), *next_++, width_ * sizeof(T));
        }
    }
    void read(FeedForward &f) {
        const int w = width_, h = 4 * width_;
        const T *first = *next_++, *first_bias = *next_++, *second = *next_++,
                *second_bias = *next_++;
        f.first.fill(w, h, [=](int k, int c) { return first[size_t(c) * w + k]; });
        f.first_back.fill(h, w, [=](int k, int c) { return first[size_t(k) * w + c]; });
        f.second.fill(h, w, [=](int k, int c) { return second[size_t(c) * h + k]; });
        f.second_back.fill(w, h, [=](int k, int c) { return second[size_t(k) * h + c]; });
        std::memcpy(f.first.bias.get(), first_bias, h * sizeof(T));
        std::memcpy(f.second.bias.get(), second_bias, w * sizeof(T));
        read(f.gate);
    }
    // Place of [d][head] among `heads * inner` of the file, or -1 where there is only padding.
    int64_t place(int index, int inner) const {
        const int head = index % heads_.padded, d = index / heads_.padded;
        return head < count_ && d < inner ? int64_t(head) * inner + d : -1;
    }
    void read(Attention &a) {
        const int w = width_, inner = inner_ + 3, flat = inner * count_;
        const T *query = *next_++, *query_bias = *next_++;
        const auto by_head = [=](int index) { return place(index, inner); };
        a.query.fill(w, stride_, [=](int k, int c) {
            return by_head(c) < 0 ? T(0) : query[by_head(c) * w + k];
        });
        a.query_back.fill(stride_, w, [=](int k, int c) {
            return by_head(k) < 0 ? T(0) : query[by_head(k) * w + c];
        });
        for (int c = 0; c < stride_; ++c)
            if (by_head(c) >= 0) a.query.bias[c] = query_bias[by_head(c)];
        if (!absorbed_) {
            const T *key_value = *next_++;
            const int64_t values = int64_t(count_) * inner_;
            const auto row = [=](int c) {
                const int64_t at = place(c % stride_, inner_);
                return at < 0 ? at : at + (c < stride_ ? 0 : values);
            };
            a.key_value.fill(w, 2 * stride_, [=](int k, int c) {
                return row(c) < 0 ? T(0) : key_value[row(c) * w + k];
            });
            a.key_value_back.fill(2 * stride_, w, [=](int k, int c) {
                return row(k) < 0 ? T(0) : key_value[row(k) * w + c];
            });
        }
        const T *output = *next_++, *bias = *next_++;
        a.output.fill(stride_, w, [=](int k, int c) {
            return by_head(k) < 0 ? T(0) : output[size_t(c) * flat + by_head(k)];
        });
        a.output_back.fill(w, stride_, [=](int k, int c) {
            return by_head(c) < 0 ? T(0) : output[size_t(k) * flat + by_head(c)];
        });
        std::memcpy(a.output.bias.get(), bias, w * sizeof(T));
        read(a.gate);
    }
    void read_first() {
        const T *logits = *next_++, *edge_query = *next_++, *values = *next_++, *moved = *next_++;
        const T *bias = *next_++, *nodes = *next_++;
        const int w = width_, n = n_, h = count_, p = heads_.padded;
        logits_.resize(size_t(n) * pairs_);
        edge_query_.resize(size_t(n) * 3 * p);
        for (int i = 0; i < n; ++i)
            for (int head = 0; head < h; ++head) {
                for (int j = 0; j < n; ++j)
                    logits_[size_t(i) * pairs_ + j * p + head] =
                        logits[(size_t(j) * n + i) * h + head];
                for (int c = 0; c < 3; ++c)
                    edge_query_[(size_t(i) * 3 + c) * p + head] =
                        edge_query[(size_t(i) * h + head) * 3 + c];
            }
        const auto entry = [=](int k, int column) {
            const int j = k / p, head = k % p;
            if (head >= h || j >= n + 3) return T(0);
            return j < n ? values[size_t(column) * n * h + j * h + head]
                         : moved[size_t(column) * 3 * h + head * 3 + j - n];
        };
        first_.fill((n + 3) * p, w, entry);
        first_back_.fill(w, first_stride_, [=](int k, int c) { return entry(c, k); });
        std::memcpy(first_.bias.get(), bias, w * sizeof(T));
        nodes_.resize(size_t(n) * wide_);
        for (int i = 0; i < n; ++i)
            std::memcpy(&nodes_[size_t(i) * wide_], nodes + size_t(i) * w, w * sizeof(T));
        read(first_gate_);
    }

    // --- one block -------------------------------------------------------------------------------

    void block(Workspace &work, const double *positions, int replicas, double inverse_scale,
               double unit, double *energies, double *forces) const {
        const int rows = replicas * n_;
        for (int b = 0; b < replicas; ++b) {
            const double *p = positions + size_t(b) * n_ * 3;
            for (int c = 0; c < 3; ++c) {
                double mean = 0;
                for (int i = 0; i < n_; ++i) mean += p[i * 3 + c];
                mean /= n_;
                for (int i = 0; i < n_; ++i)
                    work.x[(size_t(b) * n_ + i) * 3 + c] = T((p[i * 3 + c] - mean) * inverse_scale);
            }
        }
        std::memset(work.of_x.get(), 0, size_t(rows) * 3 * sizeof(T));
        first_forward(work, replicas);
        feed_forward(work, 0, rows);
        for (int l = 1; l < layers_; ++l) {
            attention_forward(work, l, replicas);
            feed_forward(work, l, rows);
        }
        decode(work, replicas, unit, energies);
        for (int l = layers_ - 1; l > 0; --l) {
            feed_back(work, l, rows);
            attention_back(work, l, replicas);
        }
        feed_back(work, 0, rows);
        first_back(work, replicas);
        for (int b = 0; b < replicas; ++b) {
            const T *g = &work.of_x[size_t(b) * n_ * 3];
            for (int c = 0; c < 3; ++c) {
                double mean = 0;
                for (int i = 0; i < n_; ++i) mean += g[i * 3 + c];
                mean /= n_;
                for (int i = 0; i < n_; ++i)
                    forces[(size_t(b) * n_ + i) * 3 + c] =
                        -unit * inverse_scale * (g[i * 3 + c] - mean);
            }
        }
    }

    void decode(Workspace &work, int replicas, double unit, double *energies) const {
        for (int b = 0; b < replicas; ++b) {
            double energy = decoder_bias_;
            for (int i = 0; i < n_; ++i) {
                const size_t row = (size_t(b) * n_ + i) * wide_;
                V total = {};
                for (int k = 0; k < wide_; k += L)
                    total += K::load(&work.nodes[row + k]) * K::load(&decoder_[k]);
                energy += K::sum(total);
                std::memcpy(&work.gradient[row], decoder_.get(), wide_ * sizeof(T));
            }
            energies[b] = unit * energy;
        }
    }

    void feed_forward(Workspace &work, int l, int rows) const {
        const FeedForward &f = feed_forwards_[l];
        Saved &s = work.saved[l];
        K::normalise(work.nodes.get(), rows, width_, wide_, mask_.get(), s.feed_normalised.get(),
                     s.feed_inverse.get());
        K::multiply(s.feed_normalised.get(), wide_, rows, f.first, work.hidden.get(), hidden());
        K::gelu(work.hidden.get(), s.slope.get(), size_t(rows) * hidden());
        K::multiply(work.hidden.get(), hidden(), rows, f.second, s.feed_change.get(), wide_);
        K::gate(f.gate, rows, wide_, s.feed_change.get(), work.nodes.get(), s.feed_share.get());
    }
    void feed_back(Workspace &work, int l, int rows) const {
        const FeedForward &f = feed_forwards_[l];
        const Saved &s = work.saved[l];
        T *hidden_gradient = work.hidden.get(), *of_new = work.of_new.get();
        K::gate_back(f.gate, rows, wide_, s.feed_change.get(), s.feed_share.get(),
                     work.gradient.get(), of_new);
        K::multiply(of_new, wide_, rows, f.second_back, hidden_gradient, hidden());
        for (size_t k = 0; k < size_t(rows) * hidden(); k += L)
            K::store(hidden_gradient + k, K::load(hidden_gradient + k) * K::load(&s.slope[k]));
        K::multiply(hidden_gradient, hidden(), rows, f.first_back, of_new, wide_);
        K::normalise_back(s.feed_normalised.get(), s.feed_inverse.get(), of_new, rows, width_,
                          wide_, mask_.get(), work.gradient.get());
    }

    // x_j[c] for every [j][head], c by c.
    void spread_edges(Workspace &work, const T *x) const {
        for (int c = 0; c < 3; ++c)
            for (int j = 0; j < n_; ++j)
                for (int h = 0; h < heads_.padded; ++h)
                    work.edges[size_t(c) * pairs_ + j * heads_.padded + h] = x[j * 3 + c];
    }

    void first_forward(Workspace &work, int replicas) const {
        Saved &s = work.saved[0];
        const int p = heads_.padded, groups = heads_.groups;
        for (int b = 0; b < replicas; ++b) {
            const T *x = &work.x[size_t(b) * n_ * 3];
            spread_edges(work, x);
            for (int i = 0; i < n_; ++i) {
                const size_t row = size_t(b) * n_ + i;
                T *attention = &s.attention[row * pairs_], *both = &work.mixed[row * first_stride_];
                for (int v = 0; v < pairs_ / L; ++v) {
                    V logit = K::load(&logits_[size_t(i) * pairs_ + v * L]);
                    for (int c = 0; c < 3; ++c) {
                        const T *e = &edge_query_[(size_t(i) * 3 + c) * p + v % groups * L];
                        logit += K::repeat(e, heads_.lanes) *
                                 K::load(&work.edges[size_t(c) * pairs_ + v * L]);
                    }
                    K::store(attention + v * L, logit);
                }
                K::soft_max(attention, n_, pairs_, heads_);
                std::memcpy(both, attention, size_t(n_) * p * sizeof(T));
                for (int c = 0; c < 3; ++c)
                    for (int g = 0; g < groups; ++g) {
                        V total = {};
                        for (int v = g; v < pairs_ / L; v += groups)
                            total += K::load(attention + v * L) *
                                     K::load(&work.edges[size_t(c) * pairs_ + v * L]);
                        total = K::fold(total, heads_.lanes) - x[i * 3 + c];
                        alignas(64) T out[L];
                        K::store(out, total);
                        std::memcpy(both + (size_t(n_) + c) * p + g * L, out,
                                    heads_.lanes * sizeof(T));
                    }
                std::memcpy(&work.nodes[row * wide_], &nodes_[size_t(i) * wide_],
                            wide_ * sizeof(T));
            }
        }
        const int rows = replicas * n_;
        K::multiply(work.mixed.get(), first_stride_, rows, first_, s.change.get(), wide_);
        K::gate(first_gate_, rows, wide_, s.change.get(), work.nodes.get(), s.share.get());
    }
    void first_back(Workspace &work, int replicas) const {
        const Saved &s = work.saved[0];
        const int p = heads_.padded, groups = heads_.groups, rows = replicas * n_;
        K::gate_back(first_gate_, rows, wide_, s.change.get(), s.share.get(), work.gradient.get(),
                     work.of_new.get());
        K::multiply(work.of_new.get(), wide_, rows, first_back_, work.mixed.get(), first_stride_);
        for (int b = 0; b < replicas; ++b) {
            spread_edges(work, &work.x[size_t(b) * n_ * 3]);
            T *of_x = &work.of_x[size_t(b) * n_ * 3], *of_edges = work.of_edges.get();
            std::memset(of_edges, 0, 3 * size_t(pairs_) * sizeof(T));
            for (int i = 0; i < n_; ++i) {
                const size_t row = size_t(b) * n_ + i;
                const T *attention = &s.attention[row * pairs_];
                const T *both = &work.mixed[row * first_stride_], *moved = both + size_t(n_) * p;
                T *of_pairs = work.of_pairs.get();
                std::memcpy(of_pairs, both, size_t(n_) * p * sizeof(T));
                for (int k = n_ * p; k < pairs_; ++k) of_pairs[k] = 0;
                for (int c = 0; c < 3; ++c)
                    for (int v = 0; v < pairs_ / L; ++v) {
                        const V of_moved = K::repeat(moved + c * p + v % groups * L, heads_.lanes);
                        T *edge = of_edges + size_t(c) * pairs_ + v * L;
                        K::store(edge, K::load(edge) + K::load(attention + v * L) * of_moved);
                        const V x = K::load(&work.edges[size_t(c) * pairs_ + v * L]);
                        K::store(of_pairs + v * L, K::load(of_pairs + v * L) + of_moved * x);
                    }
                K::soft_max_back(attention, of_pairs, pairs_, heads_);
                for (int c = 0; c < 3; ++c) {
                    for (int v = 0; v < pairs_ / L; ++v) {
                        const T *e = &edge_query_[(size_t(i) * 3 + c) * p + v % groups * L];
                        T *edge = of_edges + size_t(c) * pairs_ + v * L;
                        K::store(edge, K::load(edge) + K::load(of_pairs + v * L) *
                                                           K::repeat(e, heads_.lanes));
                    }
                    for (int h = 0; h < p; ++h) of_x[i * 3 + c] -= moved[c * p + h];
                }
            }
            for (int c = 0; c < 3; ++c)
                for (int j = 0; j < n_; ++j)
                    for (int h = 0; h < p; ++h)
                        of_x[j * 3 + c] += of_edges[size_t(c) * pairs_ + j * p + h];
        }
    }

    // Keys (and, absorbed, values) of one replica, [j][d][head]: [n_j, x_j] for every head.
    void fill_memory(Workspace &work, const T *normalised, const T *x) const {
        const int p = heads_.padded;
        for (int j = 0; j < n_; ++j) {
            T *to = &work.memory[size_t(j) * stride_];
            for (int d = 0; d < width_ + 3; ++d) {
                const T value = d < width_ ? normalised[size_t(j) * wide_ + d] : x[j * 3 + d - width_];
                for (int h = 0; h < p; ++h) to[d * p + h] = value;
            }
        }
    }
    void append_edges(T *keys, size_t stride, const T *x) const {
        const int p = heads_.padded;
        for (int j = 0; j < n_; ++j)
            for (int c = 0; c < 3; ++c)
                for (int h = 0; h < p; ++h)
                    keys[j * stride + (size_t(inner_) + c) * p + h] = x[j * 3 + c];
    }
    // Keys and values of replica b, and their stride.
    struct Pair {
        const T *keys, *values;
    };
    Pair keys_and_values(Workspace &work, int l, int b) const {
        Saved &s = work.saved[l];
        const T *x = &work.x[size_t(b) * n_ * 3];
        if (absorbed_) {
            fill_memory(work, &s.normalised[size_t(b) * n_ * wide_], x);
            return {work.memory.get(), work.memory.get()};
        }
        T *keys = &s.key_value[size_t(b) * n_ * 2 * stride_], *values = keys + size_t(n_) * stride_;
        return {keys, values};
    }

    void attention_forward(Workspace &work, int l, int replicas) const {
        const Attention &a = attentions_[l - 1];
        Saved &s = work.saved[l];
        const int rows = replicas * n_, p = heads_.padded;
        V *repeated = reinterpret_cast<V *>(work.repeated.get());
        K::normalise(work.nodes.get(), rows, width_, wide_, mask_.get(), s.normalised.get(),
                     s.inverse.get());
        K::multiply(s.normalised.get(), wide_, rows, a.query, s.query.get(), stride_);
        if (!absorbed_) split_key_value(work, a, s, replicas);
        for (int b = 0; b < replicas; ++b) {
            const size_t row = size_t(b) * n_;
            const T *x = &work.x[row * 3];
            const Pair kv = keys_and_values(work, l, b);
            T *attention = &s.attention[row * pairs_], *mixed = &work.mixed[row * stride_];
            K::pair_dots(&s.query[row * stride_], kv.keys, stride_, n_, heads_, attention, pairs_);
            for (int i = 0; i < n_; ++i)
                K::soft_max(attention + size_t(i) * pairs_, n_, pairs_, heads_);
            K::pair_mixes(attention, pairs_, p, kv.values, stride_, n_, heads_, repeated, mixed,
                          false);
            for (int i = 0; i < n_; ++i)
                for (int c = 0; c < 3; ++c)
                    for (int h = 0; h < p; ++h)
                        mixed[i * size_t(stride_) + (size_t(inner_) + c) * p + h] -= x[i * 3 + c];
        }
        K::multiply(work.mixed.get(), stride_, rows, a.output, s.change.get(), wide_);
        K::gate(a.gate, rows, wide_, s.change.get(), work.nodes.get(), s.share.get());
    }
    // Keys of all beads of a replica, then their values, with coordinates appended.
    void split_key_value(Workspace &work, const Attention &a, Saved &s, int replicas) const {
        const size_t half = size_t(n_) * stride_;
        T *both = work.of_mixed.get();
        K::multiply(s.normalised.get(), wide_, replicas * n_, a.key_value, both, 2 * stride_);
        for (int b = 0; b < replicas; ++b) {
            T *keys = &s.key_value[size_t(b) * 2 * half];
            for (int i = 0; i < n_; ++i) {
                const T *from = both + (size_t(b) * n_ + i) * 2 * stride_;
                std::memcpy(keys + size_t(i) * stride_, from, stride_ * sizeof(T));
                std::memcpy(keys + half + size_t(i) * stride_, from + stride_, stride_ * sizeof(T));
            }
            append_edges(keys, stride_, &work.x[size_t(b) * n_ * 3]);
            append_edges(keys + half, stride_, &work.x[size_t(b) * n_ * 3]);
        }
    }

    void attention_back(Workspace &work, int l, int replicas) const {
        const Attention &a = attentions_[l - 1];
        Saved &s = work.saved[l];
        const int rows = replicas * n_, p = heads_.padded;
        V *repeated = reinterpret_cast<V *>(work.repeated.get());
        K::gate_back(a.gate, rows, wide_, s.change.get(), s.share.get(), work.gradient.get(),
                     work.of_new.get());
        K::multiply(work.of_new.get(), wide_, rows, a.output_back, work.mixed.get(), stride_);
        T *arriving = work.of_new.get(); // with respect to the normalised nodes
        if (absorbed_) std::memset(arriving, 0, size_t(rows) * wide_ * sizeof(T));
        for (int b = 0; b < replicas; ++b) {
            const size_t row = size_t(b) * n_;
            const T *of_mixed = &work.mixed[row * stride_], *attention = &s.attention[row * pairs_];
            T *query = &s.query[row * stride_], *of_pairs = work.of_pairs.get();
            T *of_x = &work.of_x[row * 3];
            for (int i = 0; i < n_; ++i)
                for (int c = 0; c < 3; ++c)
                    for (int h = 0; h < p; ++h)
                        of_x[i * 3 + c] -=
                            of_mixed[i * size_t(stride_) + (size_t(inner_) + c) * p + h];
            const Pair kv = keys_and_values(work, l, b);
            K::pair_dots(of_mixed, kv.values, stride_, n_, heads_, of_pairs, pairs_);
            for (int i = 0; i < n_; ++i) {
                T *one = of_pairs + size_t(i) * pairs_;
                for (int k = n_ * p; k < pairs_; ++k) one[k] = 0;
                K::soft_max_back(attention + size_t(i) * pairs_, one, pairs_, heads_);
            }
            T *of_keys = work.of_memory.get();
            K::pair_mixes(of_pairs, p, pairs_, query, stride_, n_, heads_, repeated, of_keys,
                          false);
            if (absorbed_) {
                K::pair_mixes(attention, p, pairs_, of_mixed, stride_, n_, heads_, repeated,
                              of_keys, true);
                collect(of_keys, width_, arriving + row * wide_, of_x);
            } else {
                T *both = &work.of_mixed[row * 2 * stride_];
                collect(of_keys, 0, nullptr, of_x);
                for (int i = 0; i < n_; ++i)
                    std::memcpy(both + size_t(i) * 2 * stride_, of_keys + size_t(i) * stride_,
                                stride_ * sizeof(T));
                K::pair_mixes(attention, p, pairs_, of_mixed, stride_, n_, heads_, repeated,
                              of_keys, false);
                collect(of_keys, 0, nullptr, of_x);
                for (int i = 0; i < n_; ++i)
                    std::memcpy(both + size_t(i) * 2 * stride_ + stride_,
                                of_keys + size_t(i) * stride_, stride_ * sizeof(T));
            }
            // The query of this replica is not needed any more: its gradient takes the place.
            K::pair_mixes(of_pairs, pairs_, p, kv.keys, stride_, n_, heads_, repeated, query,
                          false);
        }
        K::multiply(s.query.get(), stride_, rows, a.query_back, arriving, wide_,
                    absorbed_ ? K::Start::sum : K::Start::bias);
        if (!absorbed_)
            K::multiply(work.of_mixed.get(), 2 * stride_, rows, a.key_value_back, arriving, wide_,
                        K::Start::sum);
        K::normalise_back(s.normalised.get(), s.inverse.get(), arriving, rows, width_, wide_,
                          mask_.get(), work.gradient.get());
    }
    // Sums over heads of [j][d][head]: d below `shared` to the nodes, the last three to x.
    void collect(const T *of_keys, int shared, T *arriving, T *of_x) const {
        const int p = heads_.padded;
        for (int j = 0; j < n_; ++j) {
            const T *from = of_keys + size_t(j) * stride_;
            for (int d = 0; d < shared; ++d) {
                T total = 0;
                for (int h = 0; h < p; ++h) total += from[d * p + h];
                arriving[size_t(j) * wide_ + d] += total;
            }
            for (int c = 0; c < 3; ++c)
                for (int h = 0; h < p; ++h)
                    of_x[j * 3 + c] += from[(size_t(inner_) + c) * p + h];
        }
    }

    int n_, width_, wide_;
    bool absorbed_;
    int inner_, layers_, count_;
    const T *const *next_;
    typename K::Heads heads_;
    int pairs_, stride_, first_stride_, rows_;
    Buffer<T> mask_, logits_, edge_query_, nodes_, decoder_;
    Matrix first_, first_back_;
    typename K::Gate first_gate_;
    std::vector<FeedForward> feed_forwards_;
    std::vector<Attention> attentions_;
    T decoder_bias_;
    std::vector<std::unique_ptr<Workspace>> work_;
};

template <class T>
void *create(const int64_t *sizes, const void *const *tensors) try {
    const Sizes given{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
    return new Network<T>(given, reinterpret_cast<const T *const *>(tensors));
} catch (const std::bad_alloc &) {
    return nullptr;
}

template <class T>
int evaluate(void *network, const double *positions, int64_t replicas, double inverse_scale,
             double unit, int threads, double *energies, double *forces) try {
    static_cast<Network<T> *>(network)->evaluate(positions, replicas, inverse_scale, unit, threads,
                                                 energies, forces);
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
