#include "traces/capture/cuda/row_history.h"

#include <algorithm>
#include <string>
#include <utility>

#include "traces/error.h"

namespace evictsim::traces::capture {

std::size_t RowHistory::list_bytes(Measure measure, std::size_t rows) noexcept {
  // Of a step: the rows, both lists of what they are compared with, and last rows with their places.
  const std::size_t lists = measure == Measure::step ? 5 : 2;
  return lists * rows * sizeof(std::int64_t);
}

std::int64_t RowHistory::places_left() const { return rows_ - used_ + static_cast<std::int64_t>(free_.size()); }

std::int64_t RowHistory::take_place() {
  if (free_.empty()) {
    // Giving places up must not fail.
    if (free_.capacity() <= static_cast<std::size_t>(used_)) free_.reserve(2 * static_cast<std::size_t>(used_) + 16);
    return used_++;
  }
  const std::int64_t place = free_.back();
  free_.pop_back();
  return place;
}

void RowHistory::give_up(Hold& hold) {
  free_.insert(free_.end(), hold.places.begin(), hold.places.end());
  hold = {};
}

/// What a cosine is compared with: rows of the same step, or it is nothing.
RowHistory::Hold* RowHistory::hold_of(const RowSelection& selection) {
  std::map<int, Hold>& holds = selection.measure == Measure::attention_cosine ? entering_ : outputs_;
  const auto found = holds.find(selection.layer);
  return found == holds.end() || found->second.rows != selection.rows ? nullptr : &found->second;
}

/// What the selection takes the place of, or was held for it.
void RowHistory::give_up_for(const RowSelection& selection) {
  const auto clear = [this](std::map<int, Hold>& holds, const auto& goes) {
    for (auto hold = holds.begin(); hold != holds.end();) {
      if (!goes(hold->first, hold->second)) {
        ++hold;
        continue;
      }
      give_up(hold->second);
      hold = holds.erase(hold);
    }
  };
  const auto all = [](int, const Hold&) { return true; };
  const auto of_layer = [&](int layer, const Hold&) { return layer == selection.layer; };
  const auto replaced = [&](int layer, const Hold& hold) {
    return layer == selection.layer || hold.rows != selection.rows;
  };
  if (selection.measure == Measure::hold_for_attention) clear(entering_, all);
  if (selection.measure == Measure::attention_cosine) clear(entering_, of_layer);
  if (selection.measure == Measure::hold_for_final) clear(outputs_, replaced);
  if (selection.measure == Measure::final_cosine) clear(outputs_, of_layer);
}

bool RowHistory::can_take(const RowSelection& selection, std::int64_t width) {
  const std::scoped_lock lock(mutex_);
  if (width_ == 0 && width > 0) {
    width_ = width;
    rows_ = static_cast<std::int64_t>(bytes_ / (static_cast<std::size_t>(width) * sizeof(float)));
  }
  if (width != width_) {
    throw Error(ErrorCode::invalid_argument,
                "rows that are compared must have one width, which is " + std::to_string(width_),
                {.parameter = "width", .value = std::to_string(width)});
  }
  const std::size_t rows = selection.rows->source.size();
  if (is_hold(selection.measure)) {
    give_up_for(selection);
    return static_cast<std::int64_t>(rows) <= places_left();
  }
  const bool possible = selection.measure == Measure::step ? rows_ > 0 : hold_of(selection) != nullptr;
  if (!possible) unmatched_ += rows;
  return possible;
}

RowHistory::Plan RowHistory::take(const RowSelection& selection) {
  const std::scoped_lock lock(mutex_);
  Plan plan;
  if (selection.measure == Measure::step) {
    take_steps(selection, plan);
  } else if (is_hold(selection.measure)) {
    plan.kept = selection.rows->source;
    for (std::size_t i = 0; i < plan.kept.size(); ++i) plan.places.push_back(take_place());
    (selection.measure == Measure::hold_for_attention ? entering_ : outputs_)[selection.layer] = {selection.rows,
                                                                                                  plan.places};
  } else {
    plan.held = hold_of(selection)->places;
    give_up_for(selection);
  }
  return plan;
}

void RowHistory::take_steps(const RowSelection& selection, Plan& plan) {
  const std::vector<std::int64_t>& source = selection.rows->source;
  const std::vector<RowOrigin>& origin = selection.rows->origin;
  bool whole = true;  // of the request at hand
  for (std::size_t i = 0; i < source.size(); ++i) {
    const RowOrigin& own = origin[i];
    const bool first = i == 0 || origin[i - 1].request != own.request;
    std::int64_t within = -1, held = -1;
    if (first) whole = true;
    if (own.token == 0) {
      within = source[i];  // the first row of a sequence has not moved
    } else if (!first && origin[i - 1].token + 1 == own.token) {
      within = source[i - 1];
    } else if (const auto request = last_.find(own.request); first && request != last_.end()) {
      const auto last = request->second.find(selection.layer);
      if (last != request->second.end() && last->second.token + 1 == own.token) held = last->second.place;
    }
    if (within < 0 && held < 0) {
      whole = false;
      ++unmatched_;
    }
    plan.within.push_back(within);
    plan.held.push_back(held);
    if (i + 1 == source.size() || origin[i + 1].request != own.request) {
      follow(own, selection.layer, source[i], whole, plan);
    }
  }
}

/// Keeps a request's last row. A channel that misses a value is of no use, so its request gives its places up.
void RowHistory::follow(const RowOrigin& last, int layer, std::int64_t source, bool whole, Plan& plan) {
  LastRows& rows = last_[last.request];
  auto place = rows.find(layer);
  if (!whole) {
    if (place != rows.end()) {
      free_.push_back(place->second.place);
      rows.erase(place);
    }
  } else if (place != rows.end() || places_left() > 0) {
    if (place == rows.end()) place = rows.emplace(layer, LastRow{take_place(), 0}).first;
    place->second.token = last.token;
    plan.kept.push_back(source);
    plan.places.push_back(place->second.place);
  }
  if (rows.empty()) last_.erase(last.request);
}

void RowHistory::miss(const RowSelection& selection) {
  const std::scoped_lock lock(mutex_);
  give_up_for(selection);
}

void RowHistory::forget(std::uint64_t request) noexcept {
  const std::scoped_lock lock(mutex_);
  const auto found = last_.find(request);
  if (found == last_.end()) return;
  for (const auto& [layer, row] : found->second) free_.push_back(row.place);
  last_.erase(found);
}

std::int64_t RowHistory::rows() const {
  const std::scoped_lock lock(mutex_);
  return rows_;
}

std::uint64_t RowHistory::held_bytes() const {
  const std::scoped_lock lock(mutex_);
  return static_cast<std::uint64_t>((rows_ - places_left()) * width_) * sizeof(float);
}

std::uint64_t RowHistory::unmatched_rows() const {
  const std::scoped_lock lock(mutex_);
  return unmatched_;
}

}  // namespace evictsim::traces::capture
