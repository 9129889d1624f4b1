#include "traces/capture/sink/token_channels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "traces/capture/vector_measures.h"

namespace evictsim::traces::capture {
namespace {

struct ChannelShape {
  Role role;
  Channel channel;
  std::size_t width;
  bool per_layer;
};

constexpr std::array channel_shapes = {
    ChannelShape{Role::entropy, Channel::entropy, 1, false},
    ChannelShape{Role::entropy_top, Channel::entropy_top, entropy_tops.size(), false},
    ChannelShape{Role::logprob, Channel::logprob, 1, false},
    ChannelShape{Role::step_norm, Channel::step_norm, 1, true},
    ChannelShape{Role::cos_final, Channel::cos_final, 1, true},
    ChannelShape{Role::cos_attention, Channel::cos_attention, 1, true},
    ChannelShape{Role::residual_norm, Channel::residual_norm, 1, true},
    ChannelShape{Role::final_norm_input, Channel::final_norm_input, 1, false},
};

const ChannelShape& shape_of(Role role) {
  return *std::find_if(channel_shapes.begin(), channel_shapes.end(),
                       [role](const ChannelShape& shape) { return shape.role == role; });
}

/// Neither NaN nor +infinity, and not -infinity everywhere.
bool is_distribution(std::span<const float> logits) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  return std::all_of(logits.begin(), logits.end(), [](float logit) { return logit < infinity; }) &&
         std::any_of(logits.begin(), logits.end(), [](float logit) { return logit > -infinity; });
}

}  // namespace

TokenChannels::TokenChannels(const ModelRecord& model, const CaptureOptions& options)
    : model_(&model), options_(&options) {
  const std::size_t layers = model.stored.layers.size();
  for (const ChannelShape& shape : channel_shapes) {
    columns_[static_cast<std::size_t>(shape.role)].resize(shape.per_layer ? layers : 1);
  }
  last_output_.resize(layers);
  outputs_.resize(layers);
}

void TokenChannels::put(Role role, std::size_t place, std::int32_t token, std::span<const float> values) {
  Column& column = columns_[static_cast<std::size_t>(role)][place];
  const std::size_t row = column.values.size() / values.size();
  const bool finite = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  if (static_cast<std::size_t>(token) > row || (!finite && (role != Role::logprob || token > 0))) column.broken = true;
  if (static_cast<std::size_t>(token) == row) column.values.insert(column.values.end(), values.begin(), values.end());
}

void TokenChannels::put(Role role, std::size_t place, std::int32_t token, double value) {
  const auto narrow = static_cast<float>(value);
  put(role, place, token, {&narrow, 1});
}

void TokenChannels::add_values(Role role, std::size_t place, std::int32_t first, std::span<const float> values) {
  if (!wanted(role)) return;
  const ChannelShape& shape = shape_of(role);
  if (!shape.per_layer) place = 0;
  for (std::int32_t token = first; !values.empty(); ++token, values = values.subspan(shape.width)) {
    if (role == Role::logprob && token == 0) {
      put(role, place, token, std::numeric_limits<double>::quiet_NaN());
    } else {
      put(role, place, token, values.first(shape.width));
    }
  }
}

void TokenChannels::add_logits(std::int32_t first, std::span<const float> rows, std::span<const std::int32_t> token_ids,
                               DistributionReducer& reducer) {
  if (!wanted(Role::entropy) && !wanted(Role::entropy_top) && !wanted(Role::logprob)) return;
  const auto vocabulary = static_cast<std::size_t>(model_->pushed.vocab_size);
  for (std::int32_t token = first; !rows.empty(); ++token, rows = rows.subspan(vocabulary)) {
    const auto place = static_cast<std::size_t>(token);
    if (token == 0) put(Role::logprob, 0, 0, std::numeric_limits<double>::quiet_NaN());
    if (!last_logits_.values.empty() && last_logits_.first + 1 == token) {
      const auto own = static_cast<std::size_t>(token_ids[place]);
      put(Role::logprob, 0, token, static_cast<double>(last_logits_.values[own]) - last_normaliser_);
    }
    last_logits_.values.clear();
    const std::span<const float> row = rows.first(vocabulary);
    if (!is_distribution(row)) continue;
    const Distribution distribution = reducer.reduce(row);
    put(Role::entropy, 0, token, distribution.entropy);
    std::array<float, entropy_tops.size()> tops{};
    std::transform(distribution.entropy_top.begin(), distribution.entropy_top.end(), tops.begin(),
                   [](double value) { return static_cast<float>(value); });
    put(Role::entropy_top, 0, token, tops);
    if (place + 1 < token_ids.size()) {
      const auto next = static_cast<std::size_t>(token_ids[place + 1]);
      put(Role::logprob, 0, token + 1, static_cast<double>(row[next]) - distribution.log_normaliser);
    } else if (wanted(Role::logprob)) {
      last_logits_.first = token;
      last_logits_.values.assign(row.begin(), row.end());
      last_normaliser_ = distribution.log_normaliser;
    }
  }
}

void TokenChannels::add_hidden(int layer, std::int32_t first, std::span<const float> rows) {
  const auto width = static_cast<std::size_t>(model_->pushed.hidden_size);
  const int place = model_->place_of(layer);
  const int output_of = model_->place_of(layer - 1);
  const bool is_final = layer == model_->pushed.num_layers;
  for (std::size_t i = 0; i * width < rows.size(); ++i) {
    const auto token = first + static_cast<std::int32_t>(i);
    const std::span<const float> row = rows.subspan(i * width, width);
    if (place >= 0 && wanted(Role::residual_norm)) {
      put(Role::residual_norm, static_cast<std::size_t>(place), token, norm(row));
    }
    if (is_final && wanted(Role::final_norm_input)) put(Role::final_norm_input, 0, token, norm(row));
  }
  if (place >= 0 && wanted(Role::cos_attention)) {
    entering_layer_ = layer;
    entering_.first = first;
    entering_.values.assign(rows.begin(), rows.end());
  }
  if (output_of >= 0) {
    const auto output = static_cast<std::size_t>(output_of);
    if (wanted(Role::step_norm)) add_step_norms(output, first, rows);
    if (wanted(Role::cos_final) && held_ + rows.size_bytes() <= options_->memory_bytes) {
      held_ += rows.size_bytes();
      outputs_[output] = {first, {rows.begin(), rows.end()}};
    }
  }
  if (is_final && wanted(Role::cos_final)) add_final_cosines(first, rows);
}

void TokenChannels::add_step_norms(std::size_t place, std::int32_t first, std::span<const float> rows) {
  const auto width = static_cast<std::size_t>(model_->pushed.hidden_size);
  std::span<const float> before = last_output_[place];
  for (std::size_t i = 0; i * width < rows.size(); ++i) {
    const std::span<const float> row = rows.subspan(i * width, width);
    put(Role::step_norm, place, first + static_cast<std::int32_t>(i), before.empty() ? 0.0 : distance(row, before));
    before = row;
  }
  const std::span<const float> last = rows.last(width);
  last_output_[place].assign(last.begin(), last.end());
}

void TokenChannels::add_final_cosines(std::int32_t first, std::span<const float> rows) {
  const auto width = static_cast<std::size_t>(model_->pushed.hidden_size);
  for (std::size_t place = 0; place < outputs_.size(); ++place) {
    Rows& output = outputs_[place];
    if (output.first == first && output.values.size() == rows.size()) {
      for (std::size_t i = 0; i * width < rows.size(); ++i) {
        put(Role::cos_final, place, first + static_cast<std::int32_t>(i),
            cosine(std::span<const float>(output.values).subspan(i * width, width), rows.subspan(i * width, width)));
      }
    }
    output = {};
  }
  held_ = 0;
}

void TokenChannels::add_after_attention(std::size_t place, std::int32_t first, std::span<const float> rows) {
  if (!wanted(Role::cos_attention)) return;
  const auto width = static_cast<std::size_t>(model_->pushed.hidden_size);
  if (model_->place_of(entering_layer_) != static_cast<int>(place) || entering_.first != first ||
      entering_.values.size() != rows.size()) {
    return;
  }
  for (std::size_t i = 0; i * width < rows.size(); ++i) {
    put(Role::cos_attention, place, first + static_cast<std::int32_t>(i),
        cosine(std::span<const float>(entering_.values).subspan(i * width, width), rows.subspan(i * width, width)));
  }
}

std::map<Channel, std::vector<float>> TokenChannels::finish(std::int32_t length) const {
  std::map<Channel, std::vector<float>> channels;
  for (const ChannelShape& shape : channel_shapes) {
    if (!wanted(shape.role)) continue;
    const std::size_t count = static_cast<std::size_t>(length) * shape.width;
    const std::vector<Column>& columns = columns_[static_cast<std::size_t>(shape.role)];
    const bool complete = std::all_of(columns.begin(), columns.end(), [count](const Column& column) {
      return !column.broken && column.values.size() >= count;
    });
    if (!complete) continue;
    std::vector<float>& values = channels[shape.channel];
    for (const Column& column : columns) {
      values.insert(values.end(), column.values.begin(), column.values.begin() + static_cast<std::ptrdiff_t>(count));
    }
  }
  return channels;
}

}  // namespace evictsim::traces::capture
