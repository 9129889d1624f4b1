#include "policies/subset_view.h"

#include <algorithm>
#include <utility>

#include "models/attention.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

std::vector<std::vector<std::int32_t>> places_between(const CacheView& base, Index first_row, Index last_row) {
  std::vector<std::vector<std::int32_t>> places(static_cast<std::size_t>(base.heads()));
  for (int head = 0; head < base.heads(); ++head) {
    const auto entries = base.entries(head);
    for (std::size_t place = 0; place < entries.size(); ++place) {
      if (entries[place] >= first_row && entries[place] < last_row) {
        places[static_cast<std::size_t>(head)].push_back(static_cast<std::int32_t>(place));
      }
    }
  }
  return places;
}

[[noreturn]] void refuse_second_pass() {
  throw Error(ErrorCode::unsupported, "a second pass reads the whole context and cannot be scored part by part");
}

}  // namespace

SubsetView::SubsetView(const CacheView& base, Index first_row, Index last_row,
                       std::vector<std::vector<std::int32_t>> places)
    : base_(base), first_row_(first_row), last_row_(last_row), places_(std::move(places)) {
  for (int head = 0; head < base.heads(); ++head) {
    std::vector<std::int32_t>& rows = entries_.emplace_back();
    for (const std::int32_t place : places_[index(head)]) {
      rows.push_back(base.entries(head)[static_cast<std::size_t>(place)] - static_cast<std::int32_t>(first_row));
    }
  }
  const auto all = base.query_rows();
  const auto first = std::lower_bound(all.begin(), all.end(), static_cast<std::int32_t>(first_row));
  const auto last = std::lower_bound(first, all.end(), static_cast<std::int32_t>(last_row));
  first_query_ = first - all.begin();
  for (auto row = first; row != last; ++row) query_rows_.push_back(*row - static_cast<std::int32_t>(first_row));
}

SubsetView::SubsetView(const CacheView& base, Index first_row, Index last_row)
    : SubsetView(base, first_row, last_row, places_between(base, first_row, last_row)) {}

Index SubsetView::prompt_length() const {
  return std::clamp<Index>(base_.prompt_length() - first_row_, 0, last_row_ - first_row_);
}

std::span<const std::int32_t> SubsetView::positions() const {
  return base_.positions().subspan(static_cast<std::size_t>(first_row_), static_cast<std::size_t>(seen()));
}

std::span<const float> SubsetView::channel(traces::Channel channel, int index) const {
  return base_.channel(channel, index).subspan(static_cast<std::size_t>(first_row_), static_cast<std::size_t>(seen()));
}

models::MatrixView SubsetView::gathered(const models::MatrixView& all, int head,
                                        std::map<int, models::Matrix>& memo) const {
  const auto [found, is_new] = memo.try_emplace(head);
  models::Matrix& rows = found->second;
  if (is_new) {
    const std::vector<std::int32_t>& places = places_[index(head)];
    rows.resize(std::ssize(places), all.cols());
    for (Index i = 0; i < rows.rows(); ++i) rows.row(i) = all.row(places[static_cast<std::size_t>(i)]);
  }
  return models::view(rows.data(), rows.rows(), rows.cols());
}

models::MatrixView SubsetView::keys(int head) const { return gathered(base_.keys(head), head, keys_); }
models::MatrixView SubsetView::values(int head) const { return gathered(base_.values(head), head, values_); }

models::MatrixView SubsetView::queries(int query_head) const {
  const models::MatrixView all = base_.queries(query_head);
  const Index stride = all.outerStride();
  return models::view(all.data() + first_query_ * stride, std::ssize(query_rows_), all.cols(), stride);
}

models::MatrixView SubsetView::layer_input() const {
  const models::MatrixView all = base_.layer_input();
  return models::view(all.data() + first_row_ * all.outerStride(), seen(), all.cols(), all.outerStride());
}

models::MatrixView SubsetView::second_pass_queries(int) const { refuse_second_pass(); }
std::span<const traces::Span> SubsetView::second_pass_chunks() const { refuse_second_pass(); }

int SubsetView::head_of(int query_head) const {
  return query_head / (base_.geometry().num_query_heads / base_.heads());
}

std::vector<double> SubsetView::attention_of(int query_head, Index row) const {
  const int head = head_of(query_head);
  const auto own = entries(head);
  const auto found = std::lower_bound(query_rows_.begin(), query_rows_.end(), static_cast<std::int32_t>(row));
  if (found == query_rows_.end() || *found != row) {
    throw Error(ErrorCode::policy_failure, "attention was asked for a row without a query; declare it in Scorer::needs",
                {.parameter = "row", .value = std::to_string(first_row_ + row)});
  }
  const auto captured = std::find(captured_layers().begin(), captured_layers().end(), layer());
  const int window = geometry().window_of(static_cast<std::size_t>(captured - captured_layers().begin()));
  const Index first_visible = models::visible_entries(positions(), row, window).first;
  std::vector<std::int32_t> visible;
  for (std::size_t i = 0; i < own.size() && own[i] <= row; ++i) {
    if (own[i] >= first_visible) visible.push_back(static_cast<std::int32_t>(i));
  }
  if (visible.empty()) return std::vector<double>(own.size(), 0.0);
  const models::MatrixView all = queries(query_head);
  const std::vector<double> seen_weights = models::reference_weights(
      {all.row(found - query_rows_.begin()).data(), static_cast<std::size_t>(all.cols())}, keys(head), visible,
      {.scale = geometry().attention_scale, .softcap = geometry().logit_softcap});
  std::vector<double> weights(own.size(), 0.0);
  std::copy(seen_weights.begin(), seen_weights.end(), weights.begin() + visible.front());
  return weights;
}

models::MatrixView SubsetView::window_attention(int query_head, Index rows) const {
  models::Matrix& window = window_[query_head];
  const auto count = std::ssize(entries(head_of(query_head)));
  if (window.rows() != count || window.cols() != rows) {
    window.resize(count, rows);
    for (Index r = 0; r < rows; ++r) {
      const std::vector<double> weights = attention_of(query_head, seen() - rows + r);
      for (Index i = 0; i < count; ++i) window(i, r) = static_cast<float>(weights[static_cast<std::size_t>(i)]);
    }
  }
  return models::view(window.data(), window.rows(), window.cols());
}

std::span<const double> SubsetView::accumulated_attention(int query_head) const {
  const auto [found, is_new] = accumulated_.try_emplace(query_head);
  std::vector<double>& sums = found->second;
  if (is_new) {
    sums.assign(static_cast<std::size_t>(prompt_length()), 0.0);
    const auto own = entries(head_of(query_head));
    for (const std::int32_t row : query_rows_) {
      if (row >= prompt_length()) break;
      const std::vector<double> weights = attention_of(query_head, row);
      for (std::size_t i = 0; i < own.size() && own[i] <= row; ++i)
        sums[static_cast<std::size_t>(own[i])] += weights[i];
    }
  }
  return sums;
}

std::span<const traces::Span> SubsetView::spans(std::string_view kind) const {
  const auto [found, is_new] = spans_.try_emplace(std::string(kind));
  if (is_new) {
    for (const traces::Span& span : base_.spans(kind)) {
      const auto first = std::max<Index>(span.first, first_row_) - first_row_;
      const auto last = std::min<Index>(span.last, last_row_) - first_row_;
      if (first < last) found->second.push_back({static_cast<std::int32_t>(first), static_cast<std::int32_t>(last)});
    }
  }
  return found->second;
}

std::mt19937_64 SubsetView::generator(int head) const {
  std::mt19937_64 base = base_.generator(head);
  if (first_row_ == 0) return base;
  // Parts of one cache must not draw the same numbers.
  const std::uint64_t drawn = base();
  std::seed_seq seeds{static_cast<std::uint32_t>(drawn), static_cast<std::uint32_t>(drawn >> 32U),
                      static_cast<std::uint32_t>(first_row_)};
  return std::mt19937_64(seeds);
}

}  // namespace evictsim::policies
