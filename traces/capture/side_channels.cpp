#include "traces/capture/side_channels.h"

#include <limits>
#include <utility>

#include "traces/capture/vector_measures.h"

namespace evictsim::traces::capture {

SideChannels::SideChannels(const Header& header, std::vector<std::int32_t> token_ids, bool with_attention)
    : layers_(header.layers),
      hidden_(static_cast<std::size_t>(header.hidden_size)),
      vocabulary_(static_cast<std::size_t>(header.vocab_size)),
      length_(token_ids.size()),
      token_ids_(std::move(token_ids)),
      with_attention_(with_attention),
      most_probable_(length_),
      entropy_(length_),
      entropy_top_(length_ * entropy_tops.size()),
      logprob_(length_, std::numeric_limits<float>::quiet_NaN()),
      step_norm_(layers_.size() * length_),
      cos_final_(layers_.size() * length_),
      cos_attention_(with_attention ? layers_.size() * length_ : 0),
      residual_norm_(layers_.size() * length_),
      final_norm_input_(length_),
      last_output_(layers_.size()) {}

void SideChannels::add(const StepRows& step) {
  add_distributions(step);
  add_norms(step);
}

void SideChannels::add_distributions(const StepRows& step) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(step.count); ++i) {
    const std::size_t row = static_cast<std::size_t>(step.first) + i;
    const auto logits = step.logits.subspan(i * vocabulary_, vocabulary_);
    const Distribution distribution = reducer_.reduce(logits);
    most_probable_[row] = distribution.most_probable;
    entropy_[row] = static_cast<float>(distribution.entropy);
    for (std::size_t top = 0; top < entropy_tops.size(); ++top) {
      entropy_top_[row * entropy_tops.size() + top] = static_cast<float>(distribution.entropy_top[top]);
    }
    if (row + 1 < length_) {
      const auto next = static_cast<std::size_t>(token_ids_[row + 1]);
      logprob_[row + 1] = static_cast<float>(static_cast<double>(logits[next]) - distribution.log_normaliser);
    }
  }
}

void SideChannels::add_norms(const StepRows& step) {
  const auto row_of = [&](const std::vector<float>& rows, std::size_t i) {
    return std::span<const float>(rows).subspan(i * hidden_, hidden_);
  };
  for (std::size_t i = 0; i < static_cast<std::size_t>(step.count); ++i) {
    const std::size_t row = static_cast<std::size_t>(step.first) + i;
    const auto final_output = row_of(step.residual.back(), i);
    final_norm_input_[row] = static_cast<float>(norm(final_output));
    for (std::size_t captured = 0; captured < layers_.size(); ++captured) {
      const auto layer = static_cast<std::size_t>(layers_[captured]);
      const auto input = row_of(step.residual[layer], i);
      const auto output = row_of(step.residual[layer + 1], i);
      const std::size_t place = captured * length_ + row;
      std::vector<float>& before = last_output_[captured];
      step_norm_[place] = before.empty() ? 0.0F : static_cast<float>(distance(output, before));
      before.assign(output.begin(), output.end());
      cos_final_[place] = static_cast<float>(cosine(output, final_output));
      residual_norm_[place] = static_cast<float>(norm(input));
      if (with_attention_) {
        cos_attention_[place] = static_cast<float>(cosine(input, row_of(step.layers[captured].after_attention, i)));
      }
    }
  }
}

void SideChannels::write(Writer& writer) const {
  writer.write_channel(Channel::token_ids, std::vector<float>(token_ids_.begin(), token_ids_.end()));
  writer.write_channel(Channel::entropy, entropy_);
  writer.write_channel(Channel::entropy_top, entropy_top_);
  writer.write_channel(Channel::logprob, logprob_);
  writer.write_channel(Channel::step_norm, step_norm_);
  writer.write_channel(Channel::cos_final, cos_final_);
  if (with_attention_) writer.write_channel(Channel::cos_attention, cos_attention_);
  writer.write_channel(Channel::residual_norm, residual_norm_);
  writer.write_channel(Channel::final_norm_input, final_norm_input_);
}

}  // namespace evictsim::traces::capture
