#include "sim/replay/layer_cache.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

[[noreturn]] void undeclared(const std::string& what, const char* need) {
  throw Error(ErrorCode::policy_failure, what + " must be declared by Needs::" + need);
}

}  // namespace

LayerCache::LayerCache(const LayerData& layer, const PromptFeatures& features, policies::Granularity granularity,
                       RandomKey key)
    : layer_(layer), features_(features), granularity_(granularity), key_(key), seen_(layer.prompt_length()) {
  const int heads =
      granularity == policies::Granularity::kv_head ? layer.geometry().num_kv_heads : layer.geometry().num_query_heads;
  std::vector<std::int32_t> prompt(static_cast<std::size_t>(seen_));
  std::iota(prompt.begin(), prompt.end(), 0);
  entries_.assign(index(heads), prompt);
  last_row_.assign(index(heads), std::vector<std::int32_t>(static_cast<std::size_t>(layer.length()), never_evicted));
  keys_.resize(index(heads));
  values_.resize(index(heads));
  window_.resize(index(layer.geometry().num_query_heads));
}

void LayerCache::append(std::int32_t row) {
  for (auto& head : entries_) head.push_back(row);
  seen_ = row + 1;
  forget_gathered();
}

void LayerCache::keep(int head, std::span<const std::int32_t> places) {
  auto& entries = entries_[index(head)];
  if (places.size() == entries.size()) return;
  auto& last_row = last_row_[index(head)];
  std::size_t next = 0;
  while (next < places.size() && static_cast<std::size_t>(places[next]) == next) ++next;
  std::size_t kept = next;
  for (std::size_t place = next; place < entries.size(); ++place) {
    if (entries.size() - place == places.size() - next) {  // none of the rest goes
      std::copy(entries.begin() + static_cast<std::ptrdiff_t>(place), entries.end(),
                entries.begin() + static_cast<std::ptrdiff_t>(kept));
      kept = places.size();
      break;
    }
    if (next < places.size() && static_cast<std::size_t>(places[next]) == place) {
      entries[kept++] = entries[place];
      ++next;
    } else {
      last_row[static_cast<std::size_t>(entries[place])] = static_cast<std::int32_t>(seen_ - 1);
    }
  }
  entries.resize(kept);
  cut_ = true;
  forget_gathered();
}

void LayerCache::forget_gathered() {
  for (auto* memo : {&keys_, &values_, &window_}) std::fill(memo->begin(), memo->end(), std::nullopt);
}

CacheHead LayerCache::cache_head(int head) const {
  const policies::QueryHeads queries = query_heads(head);
  return {geometry().kv_head_of(queries.first), queries.first, queries.count};
}

Index LayerCache::longest() const {
  std::size_t longest = 0;
  for (const auto& head : entries_) longest = std::max(longest, head.size());
  return static_cast<Index>(longest);
}

std::span<const std::int32_t> LayerCache::positions() const {
  return layer_.positions().first(static_cast<std::size_t>(seen_));
}

policies::QueryHeads LayerCache::query_heads(int head) const {
  if (granularity_ == policies::Granularity::query_head) return {head, 1};
  return {head * geometry().group_size(), geometry().group_size()};
}

int LayerCache::head_of(int query_head) const {
  return granularity_ == policies::Granularity::query_head ? query_head : geometry().kv_head_of(query_head);
}

MatrixView LayerCache::gather(const MatrixView& all, int head, std::vector<std::optional<Matrix>>& memo) const {
  if (whole_prompt()) return all;
  auto& rows = memo[index(head)];
  if (!rows) {
    const auto& entries = entries_[index(head)];
    rows.emplace(static_cast<Index>(entries.size()), all.cols());
    for (std::size_t i = 0; i < entries.size(); ++i) rows->row(static_cast<Index>(i)) = all.row(entries[i]);
  }
  return models::view(rows->data(), rows->rows(), rows->cols());
}

MatrixView LayerCache::keys(int head) const {
  return gather(layer_.keys(cache_head(head).kv_head, seen_), head, keys_);
}

MatrixView LayerCache::values(int head) const {
  return gather(layer_.values(cache_head(head).kv_head, seen_), head, values_);
}

std::span<const std::int32_t> LayerCache::query_rows() const {
  const auto rows = layer_.query_rows();
  const auto end = std::lower_bound(rows.begin(), rows.end(), static_cast<std::int32_t>(seen_));
  return {rows.begin(), end};
}

MatrixView LayerCache::queries(int query_head) const {
  const MatrixView all = layer_.queries(query_head);
  return models::view(all.data(), static_cast<Index>(query_rows().size()), all.cols());
}

MatrixView LayerCache::output_weights(int query_head) const {
  const Matrix& weights = layer_.side().output_weights;
  if (weights.size() == 0) undeclared("output weights", "output_weights");
  const Index width = geometry().head_dim;
  return models::view(weights.data() + query_head * width, weights.rows(), width, weights.cols());
}

MatrixView LayerCache::layer_input() const {
  const Matrix& input = layer_.side().layer_input;
  if (input.size() == 0) undeclared("the layer's input", "layer_input");
  return models::view(input.data(), seen_, input.cols());
}

MatrixView LayerCache::second_pass_queries(int query_head) const {
  const traces::Tensor& queries = layer_.side().second_pass_queries;
  if (queries.empty()) undeclared("the second pass", "second_pass");
  const auto rows = static_cast<Index>(queries.shape[1]);
  const auto width = static_cast<Index>(queries.shape[2]);
  return models::view(queries.data.data() + query_head * rows * width, rows, width);
}

MatrixView LayerCache::second_pass_keys(int kv_head) const {
  const traces::Tensor& keys = layer_.side().second_pass_keys;
  const auto width = static_cast<Index>(geometry().head_dim);
  if (keys.empty()) return models::view(nullptr, 0, width);
  const auto rows = static_cast<Index>(keys.shape[1]);
  return models::view(keys.data.data() + kv_head * rows * width, rows, width);
}

std::span<const traces::Span> LayerCache::second_pass_chunks() const {
  if (layer_.side().sequence == nullptr || !layer_.side().sequence->second_pass) {
    undeclared("the second pass", "second_pass");
  }
  return layer_.side().sequence->second_pass->chunk;
}

std::span<const float> LayerCache::channel(traces::Channel channel, int index) const {
  const SequenceSide* side = layer_.side().sequence;
  const auto found =
      side == nullptr ? std::map<traces::Channel, traces::Tensor>::const_iterator() : side->channels.find(channel);
  if (side == nullptr || found == side->channels.end()) undeclared(traces::to_string(channel), "channels");
  const traces::Tensor& tensor = found->second;
  const auto seen = static_cast<std::size_t>(seen_);
  if (tensor.shape.size() == 1) return std::span(tensor.data).first(seen);
  return channel_row(channel, tensor, index).first(seen);
}

std::span<const float> LayerCache::channel_row(traces::Channel channel, const traces::Tensor& tensor, int index) const {
  if (channel == traces::Channel::entropy_top) {
    // Stored token by token; policies read one column.
    std::vector<float>& column = channel_columns_[index];
    const std::size_t columns = tensor.shape[1];
    if (index < 0 || static_cast<std::size_t>(index) >= columns) {
      throw Error(ErrorCode::policy_failure, "columns of entropy_top are 0, 1, 2",
                  {.parameter = "index", .value = std::to_string(index)});
    }
    if (column.empty()) {
      for (std::size_t at = static_cast<std::size_t>(index); at < tensor.data.size(); at += columns) {
        column.push_back(tensor.data[at]);
      }
    }
    return column;
  }
  const auto found = std::find(captured_layers().begin(), captured_layers().end(), index);
  if (found == captured_layers().end()) {
    throw Error(ErrorCode::policy_failure, std::string(traces::to_string(channel)) + " has captured layers only",
                {.parameter = "layer", .value = std::to_string(index)});
  }
  const auto row = static_cast<std::size_t>(found - captured_layers().begin());
  return std::span(tensor.data).subspan(row * tensor.shape[1], tensor.shape[1]);
}

MatrixView LayerCache::window_attention(int query_head, Index rows) const {
  if (rows < 1 || rows > seen_) {
    throw Error(ErrorCode::policy_failure, "window attention must ask for 1 to " + std::to_string(seen_) + " rows",
                {.parameter = "rows", .value = std::to_string(rows)});
  }
  if (whole_prompt() && rows <= features_.window) {
    const int kv_head = geometry().kv_head_of(query_head);
    const Matrix& attention = features_.window_attention[index(kv_head)];
    const Index column = (query_head % geometry().group_size()) * features_.window + features_.window - rows;
    return models::view(attention.data() + column, attention.rows(), rows, attention.cols());
  }
  auto& window = window_[index(query_head)];
  const auto& entries = entries_[index(head_of(query_head))];
  const auto count = static_cast<Index>(entries.size());
  if (!window || window->cols() != rows) {
    window.emplace(count, rows);
    if (rows == 1) {
      resident_attention(query_head, static_cast<std::int32_t>(seen_ - 1), {window->data(), entries.size()});
      return models::view(window->data(), count, rows);
    }
    std::vector<float> column(entries.size());
    for (Index r = 0; r < rows; ++r) {
      resident_attention(query_head, static_cast<std::int32_t>(seen_ - rows + r), column);
      window->col(r) = Eigen::Map<const Eigen::VectorXf>(column.data(), count);
    }
  }
  return models::view(window->data(), count, rows);
}

std::span<const double> LayerCache::accumulated_attention(int query_head) const {
  if (features_.accumulated.empty()) undeclared("accumulated attention", "all_queries");
  return features_.accumulated[index(query_head)];
}

std::span<const traces::Span> LayerCache::spans(std::string_view kind) const {
  const auto found = layer_.sequence().spans.find(std::string(kind));
  if (found == layer_.sequence().spans.end()) return {};
  return found->second;
}

std::mt19937_64 LayerCache::generator(int head) const {
  std::seed_seq seeds{static_cast<std::uint32_t>(key_.seed), static_cast<std::uint32_t>(key_.seed >> 32U),
                      static_cast<std::uint32_t>(key_.sequence), static_cast<std::uint32_t>(layer()),
                      static_cast<std::uint32_t>(head)};
  return std::mt19937_64(seeds);
}

void LayerCache::resident_attention(int query_head, std::int32_t row, std::span<float> out) const {
  const auto& entries = entries_[index(head_of(query_head))];
  const int kv_head = geometry().kv_head_of(query_head);
  if (tile_ != nullptr && !tile_->by_query.empty()) {
    const auto found = std::lower_bound(tile_->rows.begin(), tile_->rows.end(), row);
    if (found != tile_->rows.end() && *found == row) {
      const Index column = (query_head % geometry().group_size()) * tile_->size() + (found - tile_->rows.begin());
      const auto full = tile_->by_query[index(kv_head)].row(column);
      const auto seen =
          static_cast<std::size_t>(std::upper_bound(entries.begin(), entries.end(), row) - entries.begin());
      for (std::size_t i = 0; i < seen; ++i) out[i] = full[entries[i]];
      std::fill(out.begin() + static_cast<std::ptrdiff_t>(seen), out.end(), 0.0F);
      const double mass = models::sum_in_double(out.data(), std::ssize(out));
      if (mass >= smallest_mass) {
        const auto inverse = static_cast<float>(1.0 / mass);
        for (float& weight : out) weight *= inverse;
        return;
      }
    }
  }
  // A row outside the tile (a window reaching back), or one whose resident entries have next to no mass.
  const models::EntryRange range = models::visible_entries(layer_.positions(), row, layer_.sliding_window());
  const auto first = std::lower_bound(entries.begin(), entries.end(), static_cast<std::int32_t>(range.first));
  const auto last = std::upper_bound(entries.begin(), entries.end(), row);
  std::fill(out.begin(), out.end(), 0.0F);
  if (first >= last) return;
  const MatrixView queries = layer_.queries(query_head);
  const Index place = layer_.query_place(row);
  if (place < 0) {
    throw Error(ErrorCode::policy_failure, "attention was asked for a row without a query; declare it in Scorer::needs",
                {.parameter = "row", .value = std::to_string(row)});
  }
  const std::vector<double> weights =
      models::reference_weights({queries.row(place).data(), static_cast<std::size_t>(queries.cols())},
                                layer_.keys(kv_head, row + 1), {first, last}, layer_.logit_rule());
  std::copy(weights.begin(), weights.end(), out.begin() + (first - entries.begin()));
}

DecodeStep::DecodeStep(const LayerCache& cache, std::int32_t row)
    : cache_(cache), row_(row), attention_(static_cast<std::size_t>(cache.geometry().num_query_heads)) {}

std::span<const float> DecodeStep::attention(int query_head) const {
  auto& attention = attention_[static_cast<std::size_t>(query_head)];
  if (attention.empty()) {
    attention.resize(cache_.entries(cache_.head_of(query_head)).size());
    cache_.resident_attention(query_head, row_, attention);
  }
  return attention;
}

}  // namespace evictsim::sim
