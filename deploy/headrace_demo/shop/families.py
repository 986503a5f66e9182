"""The 20 families of questions about the shop, in 4 levels: the SQL of each, and how people put it. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of question: `sql`, every paraphrase and the new wording hold each slot once, as `{slot}`."""

    name: str
    level: int  # 1 one table, 2 aggregates, 3 a join, 4 joins with grouping or three tables
    slots: tuple[str, ...]
    sql: str
    paraphrases: tuple[str, ...]
    new_wording: str  # asked in exams only: nobody trains on it


FAMILIES: tuple[Family, ...] = (
    Family(
        name="customers_in_city",
        level=1,
        slots=("city", "segment"),
        sql="select count(*) from customers where city = '{city}' and segment = '{segment}'",
        paraphrases=(
            "How many {segment} customers live in {city}?",
            "Number of {segment} clients based in {city}?",
            "In {city}, how many {segment} customers do we have?",
            "Tell me the count of {segment} buyers from {city}.",
        ),
        new_wording="How big is our {segment} clientele in {city}?",
    ),
    Family(
        name="home_of_person",
        level=1,
        slots=("person",),
        sql="select city from customers where customer_name = '{person}'",
        paraphrases=(
            "Where does {person} live?",
            "In which city is customer {person}?",
            "What is the home town of {person}?",
            "{person} is based where?",
        ),
        new_wording="Which town does {person} call home?",
    ),
    Family(
        name="price_of_product",
        level=1,
        slots=("product",),
        sql="select price from products where product_name = '{product}'",
        paraphrases=(
            "What does the {product} cost?",
            "How much is a {product}?",
            "What is the price of the {product}?",
            "How much do I pay for one {product}?",
            "Price tag of {product}?",
        ),
        new_wording="What would I be charged for the {product}?",
    ),
    Family(
        name="cheap_in_category",
        level=1,
        slots=("category", "limit"),
        sql="select product_name from products where category = '{category}' and price < {limit}",
        paraphrases=(
            "Which {category} products cost less than {limit}?",
            "What can I buy in {category} for under {limit}?",
            "List {category} articles cheaper than {limit}.",
            "Show everything in {category} below {limit}.",
        ),
        new_wording="Is there anything from {category} that stays under {limit}?",
    ),
    Family(
        name="orders_by_status",
        level=1,
        slots=("status", "channel", "year"),
        sql="select count(*) from orders where status = '{status}' and channel = '{channel}' and year = {year}",
        paraphrases=(
            "How many {channel} orders of {year} are {status}?",
            "Count the {status} orders that came through {channel} in {year}.",
            "In {year}, how many purchases via {channel} were {status}?",
            "Number of {status} {channel} orders in {year}?",
        ),
        new_wording="Of the {channel} orders in {year}, what number is {status}?",
    ),
    Family(
        name="segments_of_city",
        level=2,
        slots=("city",),
        sql="select segment, count(*) from customers where city = '{city}' group by segment",
        paraphrases=(
            "How many customers of each segment live in {city}?",
            "Break the customers of {city} down by segment.",
            "What kinds of clients do we have in {city}, and how many?",
            "Customer count per segment for {city}?",
        ),
        new_wording="Please list the segments of {city} with their customer numbers.",
    ),
    Family(
        name="dearest_in_category",
        level=2,
        slots=("category", "top"),
        sql="select product_name from products where category = '{category}' order by price desc limit {top}",
        paraphrases=(
            "What are the {top} most expensive {category} products?",
            "Name the top {top} {category} articles by price.",
            "Which {top} things in {category} cost the most?",
            "Give me the {top} dearest {category} products.",
        ),
        new_wording="I want the {top} priciest articles of {category}.",
    ),
    Family(
        name="slow_shipments",
        level=2,
        slots=("carrier", "days"),
        sql="select count(*) from shipments where carrier = '{carrier}' and days > {days}",
        paraphrases=(
            "How many {carrier} shipments took more than {days} days?",
            "How often did {carrier} need over {days} days?",
            "Count the parcels of {carrier} that were slower than {days} days.",
            "Number of {carrier} deliveries beyond {days} days?",
        ),
        new_wording="With {carrier}, how many deliveries lasted longer than {days} days?",
    ),
    Family(
        name="extreme_days",
        level=2,
        slots=("carrier", "most"),
        sql="select {most}(days) from shipments where carrier = '{carrier}'",
        paraphrases=(
            "What is the {most_word} delivery time of {carrier}?",
            "How many days does {carrier} take at {most_word}?",
            "Give me the {most_word} number of days for {carrier}.",
            "{carrier}: {most_word} days to deliver?",
        ),
        new_wording="Tell me the {most_word} delivery by {carrier} in days.",
    ),
    Family(
        name="channels_of_status",
        level=2,
        slots=("status", "year"),
        sql="select channel, count(*) from orders where status = '{status}' and year = {year} group by channel",
        paraphrases=(
            "How do the {status} orders of {year} split over the channels?",
            "Count {status} orders per channel in {year}.",
            "For {year}, show {status} orders by channel.",
            "Through which channels came the {status} orders of {year}, and how many?",
        ),
        new_wording="Of the orders {status} in {year}, how many belong to each channel?",
    ),
    Family(
        name="orders_from_city",
        level=3,
        slots=("city", "status"),
        sql="select count(*) from orders join customers using (customer_id) where city = '{city}' and status = '{status}'",
        paraphrases=(
            "How many {status} orders came from {city}?",
            "Count the orders of customers in {city} that are {status}.",
            "What is the number of {status} purchases made in {city}?",
            "From {city}, how many orders are {status}?",
        ),
        new_wording="People in {city}: how many of their orders are {status}?",
    ),
    Family(
        name="orders_of_segment",
        level=3,
        slots=("segment", "channel", "year"),
        sql="select count(*) from orders join customers using (customer_id)"
        " where segment = '{segment}' and channel = '{channel}' and year = {year}",
        paraphrases=(
            "How many orders did {segment} customers place via {channel} in {year}?",
            "Count the {channel} orders of {segment} clients in {year}.",
            "In {year}, how often did {segment} buyers order through {channel}?",
            "{year} orders by {segment} customers over {channel}, how many?",
        ),
        new_wording="What did {segment} clients order over {channel} during {year}, as a count?",
    ),
    Family(
        name="buyers_in_city",
        level=3,
        slots=("city", "channel"),
        sql="select distinct customer_name from customers join orders using (customer_id)"
        " where city = '{city}' and channel = '{channel}'",
        paraphrases=(
            "Who in {city} ordered through {channel}?",
            "Which customers from {city} used {channel}?",
            "Names of everyone in {city} who bought via {channel}?",
            "List the {channel} buyers of {city} by name.",
        ),
        new_wording="Show me who lives in {city} and has shopped via {channel}.",
    ),
    Family(
        name="units_of_product",
        level=3,
        slots=("product",),
        sql="select sum(quantity) from items join products using (product_id) where product_name = '{product}'",
        paraphrases=(
            "How many units of the {product} did we sell?",
            "Total quantity sold of {product}?",
            "How often was the {product} bought in all?",
            "What is the sales volume of the {product}?",
        ),
        new_wording="How many pieces of {product} left our shop?",
    ),
    Family(
        name="shipments_of_channel",
        level=3,
        slots=("carrier", "channel", "year"),
        sql="select count(*) from shipments join orders using (order_id)"
        " where carrier = '{carrier}' and channel = '{channel}' and year = {year}",
        paraphrases=(
            "How many {channel} orders of {year} went out with {carrier}?",
            "Count the {carrier} shipments for {channel} orders in {year}.",
            "In {year}, how many {channel} parcels did {carrier} carry?",
            "Number of {carrier} deliveries from {channel} in {year}?",
        ),
        new_wording="For {channel} orders from {year}, what number of shipments did {carrier} take?",
    ),
    Family(
        name="revenue_of_category",
        level=4,
        slots=("category", "year"),
        sql="select sum(quantity * price) from items join products using (product_id) join orders using (order_id)"
        " where category = '{category}' and year = {year}",
        paraphrases=(
            "What was the revenue of {category} in {year}?",
            "How much money did {category} products bring in {year}?",
            "Total sales value for {category} during {year}?",
            "In {year}, what did we earn with {category}?",
        ),
        new_wording="How large were our {category} earnings in {year}?",
    ),
    Family(
        name="best_customers",
        level=4,
        slots=("city", "top"),
        sql="select customer_name from customers join orders using (customer_id) where city = '{city}'"
        " group by customer_name order by count(*) desc, customer_name limit {top}",
        paraphrases=(
            "Who are the {top} best customers of {city} by number of orders?",
            "Top {top} buyers in {city} by order count?",
            "Name the {top} people in {city} who order most often.",
            "Which {top} customers from {city} placed the most orders?",
        ),
        new_wording="In {city}, who are our {top} most loyal customers, counting orders?",
    ),
    Family(
        name="busy_cities",
        level=4,
        slots=("channel", "count"),
        sql="select city from customers join orders using (customer_id) where channel = '{channel}'"
        " group by city having count(*) > {count}",
        paraphrases=(
            "Which cities have more than {count} {channel} orders?",
            "Where did we get over {count} orders through {channel}?",
            "List the cities with at least one order above {count} via {channel}.",
            "Cities whose {channel} orders exceed {count}?",
        ),
        new_wording="Name every city that ordered more than {count} times via {channel}.",
    ),
    Family(
        name="product_by_channel",
        level=4,
        slots=("product",),
        sql="select channel, sum(quantity) from items join orders using (order_id) join products using (product_id)"
        " where product_name = '{product}' group by channel",
        paraphrases=(
            "How many units of the {product} were sold per channel?",
            "Split the sales of the {product} by channel.",
            "Through which channels does the {product} sell, and how many?",
            "Quantity of {product} for each channel?",
        ),
        new_wording="For the {product}, list units sold through every channel.",
    ),
    Family(
        name="days_of_segment",
        level=4,
        slots=("carrier", "segment", "year"),
        sql="select avg(days) from shipments join orders using (order_id) join customers using (customer_id)"
        " where carrier = '{carrier}' and segment = '{segment}' and year = {year}",
        paraphrases=(
            "How many days did {carrier} take on average for {segment} customers in {year}?",
            "Average {carrier} delivery time to {segment} clients in {year}?",
            "In {year}, how fast was {carrier} for {segment} buyers on average?",
            "Mean days of {carrier} shipments to {segment} customers in {year}?",
        ),
        new_wording="What delivery time did {segment} customers see from {carrier} in {year}, as a mean?",
    ),
)
